-- A small shop: four tables that load in PostgreSQL and in SQLite.
-- examples/shop.sqlite is this script, loaded by SQLite.
CREATE TABLE customers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    city text NOT NULL,
    country text NOT NULL,
    joined date NOT NULL
);

CREATE TABLE products (
    id integer PRIMARY KEY,
    name text NOT NULL,
    category text NOT NULL,
    price numeric(8, 2) NOT NULL,
    stock integer NOT NULL
);

CREATE TABLE orders (
    id integer PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers (id),
    ordered_on date NOT NULL,
    status text NOT NULL CHECK (status IN ('open', 'shipped', 'returned'))
);

CREATE TABLE order_items (
    order_id integer NOT NULL REFERENCES orders (id),
    product_id integer NOT NULL REFERENCES products (id),
    quantity integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, product_id)
);

INSERT INTO customers VALUES
    (1, 'Ann Weber', 'Berlin', 'Germany', '2023-02-11'),
    (2, 'Bruno Costa', 'Lisbon', 'Portugal', '2023-03-05'),
    (3, 'Chloe Martin', 'Paris', 'France', '2023-03-28'),
    (4, 'Dario Rossi', 'Rome', 'Italy', '2023-06-02'),
    (5, 'Eva Novak', 'Prague', 'Czechia', '2023-09-14'),
    (6, 'Finn Larsen', 'Oslo', 'Norway', '2024-01-09'),
    (7, 'Greta Holm', 'Berlin', 'Germany', '2024-02-20'),
    (8, 'Hugo Silva', 'Porto', 'Portugal', '2024-04-01'),
    (9, 'Iris Klein', 'Vienna', 'Austria', '2024-05-17'),
    (10, 'Jonas Berg', 'Oslo', 'Norway', '2024-08-30');

INSERT INTO products VALUES
    (1, 'Espresso cup', 'kitchen', 8.50, 120),
    (2, 'Teapot', 'kitchen', 32.00, 25),
    (3, 'Desk lamp', 'lighting', 45.90, 40),
    (4, 'Floor lamp', 'lighting', 89.00, 12),
    (5, 'Wool blanket', 'textiles', 64.00, 18),
    (6, 'Linen towel', 'textiles', 14.50, 75),
    (7, 'Oak chair', 'furniture', 129.00, 9),
    (8, 'Bookshelf', 'furniture', 210.00, 5);

INSERT INTO orders VALUES
    (1, 4, '2024-03-13', 'shipped'),
    (2, 8, '2024-01-17', 'shipped'),
    (3, 5, '2024-02-08', 'shipped'),
    (4, 1, '2024-10-19', 'open'),
    (5, 6, '2024-03-10', 'open'),
    (6, 2, '2024-02-19', 'returned'),
    (7, 8, '2024-01-20', 'shipped'),
    (8, 4, '2024-05-08', 'shipped'),
    (9, 6, '2024-06-24', 'open'),
    (10, 2, '2024-06-05', 'open'),
    (11, 4, '2024-12-12', 'returned'),
    (12, 1, '2024-12-23', 'shipped'),
    (13, 4, '2024-03-20', 'shipped'),
    (14, 5, '2024-08-03', 'shipped'),
    (15, 3, '2024-12-14', 'shipped'),
    (16, 3, '2024-01-16', 'returned'),
    (17, 5, '2024-09-12', 'returned'),
    (18, 1, '2024-08-28', 'returned');

INSERT INTO order_items VALUES
    (1, 2, 2),
    (2, 2, 3),
    (3, 1, 1),
    (3, 5, 1),
    (3, 7, 4),
    (4, 4, 1),
    (5, 2, 2),
    (5, 5, 4),
    (6, 1, 4),
    (6, 6, 1),
    (7, 3, 3),
    (7, 7, 4),
    (7, 8, 3),
    (8, 2, 2),
    (8, 5, 4),
    (9, 1, 4),
    (9, 2, 3),
    (10, 1, 4),
    (10, 6, 4),
    (10, 8, 2),
    (11, 1, 2),
    (11, 7, 3),
    (11, 8, 1),
    (12, 4, 2),
    (12, 5, 1),
    (12, 6, 3),
    (13, 1, 1),
    (13, 2, 1),
    (13, 3, 3),
    (14, 3, 1),
    (14, 5, 3),
    (14, 7, 4),
    (15, 1, 1),
    (15, 2, 1),
    (15, 4, 1),
    (16, 3, 1),
    (16, 5, 1),
    (17, 3, 4),
    (17, 6, 4),
    (18, 4, 1),
    (18, 7, 3),
    (18, 8, 3);
