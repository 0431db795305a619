"""A small database on which the cases of the dialect's rules run, with what is awkward about SQLite in it."""

SCRIPT = """
CREATE TABLE customer (
    id INTEGER PRIMARY KEY, Name VARCHAR(40) NOT NULL, city TEXT, age INT, vip BOOLEAN, joined DATE, zip TEXT,
    score REAL
);
INSERT INTO customer VALUES
    (1, 'Ann Lee', 'Oslo', 34, 1, '2020-01-31', '0150', 1.5),
    (2, 'bob ray', 'Bergen', NULL, 0, '2020-02-29', '5003', 2.5),
    (3, 'Cid', 'oslo', 51, 1, '2021-12-31', '5', '3.25'), (4, 'Dee_X', 'Rome', 18, 0, '2019-07-01', '12', NULL),
    (5, 'Élan', 'Oslo', 34, 1, '2020-01-01', '0150', 0), (6, 'F%g', NULL, 40, 0, '2022-05-15', '77', -2.5);
CREATE TABLE product (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, price DECIMAL(10,2), stock INTEGER, "Group" TEXT, weight REAL, code TEXT
);
INSERT INTO product VALUES
    (1, 'Pen', 1.5, 10, 'office', 0.01, 'A-1'), (2, 'Ink', 7, 0, 'office', 0.5, 'A-2'),
    (3, 'Bike', 250.75, 3, 'sport', 14.2, 'B-10'), (4, 'Ball', 20, 7, 'sport', 0.4, 'b-2'),
    (5, 'Box', NULL, 5, 'home', 1.0, NULL);
CREATE TABLE "order" (
    id INTEGER PRIMARY KEY, customer_id INT REFERENCES customer (id), placed DATETIME, status TEXT, total NUMERIC,
    note TEXT
);
INSERT INTO "order" VALUES
    (1, 1, '2021-03-01 10:15:00', 'paid', 12.5, 'x'), (2, 1, '2021-03-05 00:00:00', 'open', 7, ''),
    (3, 2, '2021-04-01 23:59:59', 'paid', 250.75, NULL), (4, 3, '2022-01-01 12:00:00', 'Paid', 20, 'long note'),
    (5, 5, '2022-01-02 08:30:00', 'void', 0, 'a_b'), (6, NULL, '2022-02-28 18:45:30', 'open', 3.25, '50%');
CREATE TABLE item (
    order_id INT, product_id INT, qty INT, discount REAL, PRIMARY KEY (order_id, product_id),
    FOREIGN KEY (order_id) REFERENCES "order" (id), FOREIGN KEY (product_id) REFERENCES product (id)
);
INSERT INTO item VALUES
    (1, 1, 3, 0), (1, 2, 1, 0.1), (2, 2, 1, 0), (3, 3, 1, 0.25), (4, 4, 2, 0), (5, 1, 10, 0.5), (5, 4, 1, 0);
-- v holds numbers and texts, t texts of which some are numbers, n texts that all are
CREATE TABLE reading (id INTEGER PRIMARY KEY, v INTEGER, t TEXT, n TEXT);
INSERT INTO reading VALUES
    (1, 5, '10', '3'), (2, 'n/a', '9', '12'), (3, 12, 'abc', '7'), (4, NULL, '1e2', '100'), (5, 7, ' 8', '3'),
    (6, 100, NULL, '41');
-- empty texts in columns of decimals and dates; names without case; fractions of a second
CREATE TABLE sensor (id INTEGER PRIMARY KEY, heat NUMERIC, seen DATE, name TEXT COLLATE NOCASE, at DATETIME, ts REAL);
INSERT INTO sensor VALUES
    (1, 10.5, '2024-01-05', 'Oslo', '2024-01-05T08:22:35.864889Z', 1700000000.75), (2, '', '', 'OSLO', NULL, NULL),
    (3, 12, '2024-02-01', 'Rome', '2024-02-05T23:59:59.120000Z', 1700100000.5), (4, NULL, '', 'rome', NULL, NULL);
"""
