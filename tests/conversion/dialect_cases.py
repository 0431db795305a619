"""The specification of the dialect: for each rule what SQLite has and what PostgreSQL gets, on the database of shop.py."""

# ruff: noqa: E501

CASES: dict[str, list[tuple[str, str]]] = {
    "string_literals": [
        ('SELECT name FROM customer WHERE name = "Ann Lee"', "SELECT name FROM customer WHERE name = 'Ann Lee'"),
        ('SELECT "nothing" FROM customer', "SELECT 'nothing' FROM customer"),
        (
            'SELECT name FROM customer WHERE city IN ("Oslo", "Rome") AND name <> "it\'s"',
            "SELECT name FROM customer WHERE city IN ('Oslo', 'Rome') AND name <> 'it''s'",
        ),
    ],
    "blanks": [
        ("SELECT id FROM sensor WHERE heat = ''", "SELECT id FROM sensor WHERE heat IS NULL"),
        (
            "SELECT id FROM sensor WHERE heat <> '' AND heat < 11",
            "SELECT id FROM sensor WHERE heat IS NOT NULL AND heat < 11",
        ),
        (
            "SELECT id FROM sensor WHERE seen IN ('', '2024-01-05')",
            "SELECT id FROM sensor WHERE seen IN ('2024-01-05') OR seen IS NULL",
        ),
        (
            "SELECT avg(heat), sum(heat) + 1 FROM sensor WHERE heat IS NOT ''",
            "SELECT avg(heat), sum(heat) + 1 FROM sensor WHERE heat IS NOT NULL",
        ),
    ],
    "names": [
        (
            'SELECT NAME, "City" FROM Customer AS C WHERE C."City" = \'Oslo\'',
            "SELECT name, city FROM customer AS c WHERE c.city = 'Oslo'",
        ),
        ('SELECT p."Group", [stock], `code` FROM Product p', 'SELECT p."group", stock, code FROM product AS p'),
        (
            'SELECT count(*) AS "Number Of", max(age) AS "Order" FROM customer',
            'SELECT count(*) AS "number of", max(age) AS "order" FROM customer',
        ),
        ("SELECT main.customer.name FROM main.customer", "SELECT customer.name FROM customer"),
        (
            "SELECT rowid, name FROM customer ORDER BY rowid LIMIT 2",
            "SELECT id, name FROM customer ORDER BY id LIMIT 2",
        ),
    ],
    "aliases": [
        (
            "SELECT age * 2 AS d FROM customer WHERE d > 60 ORDER BY d + 1",
            "SELECT age * 2 AS d FROM customer WHERE age * 2 > 60 ORDER BY (age * 2) + 1 NULLS FIRST",
        ),
        (
            "SELECT city AS c, count(*) AS n FROM customer GROUP BY c HAVING n > 1 ORDER BY n, c",
            "SELECT city AS c, count(*) AS n FROM customer GROUP BY c HAVING count(*) > 1 ORDER BY n, c NULLS FIRST",
        ),
        (
            "SELECT strftime('%Y', placed) AS y, count(*) FROM \"order\" GROUP BY y",
            "SELECT to_char(placed, 'YYYY') AS y, count(*) FROM \"order\" GROUP BY y",
        ),
    ],
    "joins": [
        ("SELECT count(*) FROM customer JOIN product", "SELECT count(*) FROM customer, product"),
        ("SELECT count(*) FROM customer INNER JOIN product, item", "SELECT count(*) FROM customer, product, item"),
        (
            "SELECT c.name FROM customer c, product p JOIN item i ON i.order_id = c.id AND i.product_id = p.id",
            "SELECT c.name FROM customer AS c CROSS JOIN product AS p JOIN item AS i ON i.order_id = c.id AND i.product_id = p.id",
        ),
        (
            'SELECT p.name FROM product p JOIN item i ON o.id = i.order_id JOIN "order" o ON p.id = i.product_id',
            'SELECT p.name FROM product AS p CROSS JOIN item AS i JOIN "order" AS o ON p.id = i.product_id AND o.id = i.order_id',
        ),
        (
            'SELECT c.name, o.id FROM customer c LEFT OUTER JOIN "order" o ON c.id = o.customer_id',
            'SELECT c.name, o.id FROM customer AS c LEFT JOIN "order" AS o ON c.id = o.customer_id',
        ),
        (
            "SELECT count(*) FROM customer CROSS JOIN product ON customer.id = product.id",
            "SELECT count(*) FROM customer JOIN product ON customer.id = product.id",
        ),
        ("SELECT count(*) FROM customer NATURAL JOIN product", "SELECT count(*) FROM customer NATURAL JOIN product"),
        ('SELECT total FROM customer JOIN "order" USING (id)', 'SELECT total FROM customer JOIN "order" USING (id)'),
    ],
    "collations": [
        (
            "SELECT name FROM customer WHERE name COLLATE NOCASE = 'cid'",
            "SELECT name FROM customer WHERE lower(name) = lower('cid')",
        ),
        (
            "SELECT name FROM customer WHERE name COLLATE NOCASE IS 'cid'",
            "SELECT name FROM customer WHERE lower(name) IS NOT DISTINCT FROM lower('cid')",
        ),
        ("SELECT name FROM customer ORDER BY name COLLATE NOCASE", "SELECT name FROM customer ORDER BY lower(name)"),
        (
            "SELECT name FROM customer WHERE city = 'oslo' COLLATE BINARY",
            "SELECT name FROM customer WHERE city = 'oslo'",
        ),
        ("SELECT count(DISTINCT name) FROM sensor", "SELECT count(DISTINCT lower(name)) FROM sensor"),
        (
            "SELECT lower(name), count(*) FROM sensor GROUP BY name ORDER BY 1",
            "SELECT lower(name), count(*) FROM sensor GROUP BY lower(name) ORDER BY 1",
        ),
        (
            "SELECT id, count(*) OVER (PARTITION BY name) FROM sensor",
            "SELECT id, count(*) OVER (PARTITION BY lower(name)) FROM sensor",
        ),
        (
            "SELECT id FROM sensor WHERE name IN ('oslo', 'Paris')",
            "SELECT id FROM sensor WHERE lower(name) IN (lower('oslo'), lower('Paris'))",
        ),
        (
            "SELECT id FROM customer WHERE city COLLATE NOCASE IN ('OSLO', 'rome')",
            "SELECT id FROM customer WHERE lower(city) IN (lower('OSLO'), lower('rome'))",
        ),
        (
            "SELECT id FROM sensor WHERE name IN (SELECT city FROM customer)",
            "SELECT id FROM sensor WHERE lower(name) IN (SELECT lower(city) FROM customer)",
        ),
        (
            "SELECT id FROM customer WHERE city IN (SELECT name FROM sensor)",
            "SELECT id FROM customer WHERE city IN (SELECT name FROM sensor)",
        ),
    ],
    "dates": [
        (
            'SELECT date(placed), time(placed), datetime(placed) FROM "order"',
            'SELECT placed::date, placed::time, placed FROM "order"',
        ),
        (
            "SELECT date(joined, '+1 day'), date(joined, '-7 days'), date(joined, 'start of month') FROM customer",
            "SELECT joined + 1, joined - 7, date_trunc('month', joined)::date FROM customer",
        ),
        (
            "SELECT date(joined, 'start of month', '+1 month', '-1 day') FROM customer",
            "SELECT (date_trunc('month', joined) + INTERVAL '1 month' - INTERVAL '1 day')::date FROM customer",
        ),
        (
            "SELECT datetime(placed, '+90 minutes'), date('2020-01-31', '+2 days') FROM \"order\"",
            "SELECT placed + INTERVAL '90 minutes', '2020-01-31'::date + 2 FROM \"order\"",
        ),
        (
            "SELECT strftime('%Y', joined), strftime('%m/%d', joined) FROM customer",
            "SELECT to_char(joined, 'YYYY'), to_char(joined, 'MM/DD') FROM customer",
        ),
        (
            "SELECT strftime('%Y-%m', placed), strftime('%H:%M:%S', placed), strftime('%w', placed), strftime('%j', placed) FROM \"order\"",
            "SELECT to_char(placed, 'YYYY-MM'), to_char(placed, 'HH24:MI:SS'), EXTRACT(DOW FROM placed)::text, to_char(placed, 'DDD') FROM \"order\"",
        ),
        (
            "SELECT strftime('%s', placed) FROM \"order\"",
            'SELECT EXTRACT(EPOCH FROM placed)::bigint::text FROM "order"',
        ),
        (
            "SELECT name FROM customer WHERE strftime('%Y', joined) = '2020'",
            "SELECT name FROM customer WHERE to_char(joined, 'YYYY') = '2020'",
        ),
        (
            "SELECT DISTINCT (strftime('%m', joined) + 2) / 3 FROM customer",
            "SELECT DISTINCT (to_char(joined, 'MM')::int + 2) / 3 FROM customer",
        ),
        (
            "SELECT CAST(strftime('%m', joined) AS INTEGER) FROM customer",
            "SELECT EXTRACT(MONTH FROM joined) FROM customer",
        ),
        (
            "SELECT julianday('2021-01-05') - julianday(joined) FROM customer",
            "SELECT '2021-01-05'::date - joined FROM customer",
        ),
        (
            "SELECT julianday(placed) - julianday('2021-01-01') FROM \"order\"",
            "SELECT EXTRACT(EPOCH FROM placed - '2021-01-01'::date) / 86400 FROM \"order\"",
        ),
        (
            'SELECT julianday(joined), unixepoch(placed) FROM customer, "order"',
            'SELECT EXTRACT(JULIAN FROM joined) - 0.5, EXTRACT(EPOCH FROM placed) FROM customer, "order"',
        ),
        (
            "SELECT (julianday('2024-01-01') - julianday(joined)) / 365 FROM customer",
            "SELECT ('2024-01-01'::date - joined)::numeric / 365 FROM customer",
        ),
        ("SELECT date('now') = CURRENT_DATE", "SELECT CURRENT_DATE = CURRENT_DATE"),
        (
            "SELECT count(*) FROM \"order\" WHERE placed < datetime('now', '-1 day')",
            "SELECT count(*) FROM \"order\" WHERE placed < date_trunc('second', localtimestamp) - INTERVAL '1 day'",
        ),
        ("SELECT datetime(0, 'unixepoch')", "SELECT to_timestamp(0) AT TIME ZONE 'UTC'"),
        (
            "SELECT datetime(at), time(at), date(at), strftime('%s', at), unixepoch(at) FROM sensor",
            "SELECT date_trunc('second', at), date_trunc('second', at)::time, at::date, floor(EXTRACT(EPOCH FROM at))::bigint::text, floor(EXTRACT(EPOCH FROM at)) FROM sensor",
        ),
        (
            "SELECT datetime(ts, 'unixepoch') FROM sensor",
            "SELECT date_trunc('second', to_timestamp(ts) AT TIME ZONE 'UTC') FROM sensor",
        ),
        ("SELECT strftime('%Y-%m', at) FROM sensor", "SELECT to_char(at, 'YYYY-MM') FROM sensor"),
    ],
    "functions": [
        (
            "SELECT upper(name), lower(name), length(name), length(age) FROM customer",
            "SELECT upper(name), lower(name), length(name), length(age::text) FROM customer",
        ),
        (
            "SELECT substr(name, 1, 3), substr(name, -3), substr(name, -3, 2), substr(name, 2) FROM customer",
            "SELECT substr(name, 1, 3), right(name, 3), substr(name, length(name) - 2, 2), substr(name, 2) FROM customer",
        ),
        (
            "SELECT substr(name, 1, instr(name, ' ') - 1), instr(name, 'a') FROM customer",
            "SELECT substr(name, 1, greatest(strpos(name, ' ') - 1, 0)), strpos(name, 'a') FROM customer",
        ),
        (
            'SELECT substr(joined, 1, 4), substring(placed, 12) FROM customer, "order"',
            'SELECT substr(joined::text, 1, 4), substr(placed::text, 12) FROM customer, "order"',
        ),
        (
            "SELECT replace(name, ' ', '_'), trim('  x '), ltrim('xxa', 'x'), rtrim(name, 'e') FROM customer",
            "SELECT replace(name, ' ', '_'), trim('  x '), ltrim('xxa', 'x'), rtrim(name, 'e') FROM customer",
        ),
        (
            "SELECT round(score, 1), round(score), round(age / 3.0, 2), round(age) FROM customer",
            "SELECT round(score::numeric, 1), round(score::numeric), round(age / 3.0, 2), round(age) FROM customer",
        ),
        (
            "SELECT abs(score), max(age, 40), min(age, id) FROM customer",
            "SELECT abs(score), CASE WHEN age IS NOT NULL THEN greatest(age, 40) END, CASE WHEN age IS NOT NULL THEN least(age, id) END FROM customer",
        ),
        (
            "SELECT typeof(name), typeof(age), typeof(3.0), typeof(NULL) FROM customer",
            "SELECT 'text', CASE WHEN age IS NULL THEN 'null' ELSE 'integer' END, 'real', 'null' FROM customer",
        ),
        (
            "SELECT printf('%d: %s', id, name), printf('%.2f', score), printf('%05d%%', id) FROM customer",
            "SELECT concat(id, ': ', name), round(coalesce(score, 0)::numeric, 2)::text, concat(lpad(id::text, greatest(5, length(id::text)), '0'), '%') FROM customer",
        ),
        (
            "SELECT format('%-8s|%6.1f', code, weight) FROM product",
            "SELECT concat(rpad(coalesce(code, ''), greatest(8, length(coalesce(code, '')))), '|', lpad(round(weight::numeric, 1)::text, greatest(6, length(round(weight::numeric, 1)::text)))) FROM product",
        ),
        (
            "SELECT hex('ab'), unicode('A'), char(65, 66), sqrt(16), power(2, 3), floor(2.7), ceil(2.1), sign(-3), log10(100)",
            "SELECT upper(encode(convert_to('ab', 'UTF8'), 'hex')), ascii('A'), concat(chr(65), chr(66)), sqrt(16), power(2, 3), floor(2.7), ceil(2.1), sign(-3)::int, log(100)",
        ),
        ("SELECT likely(age) FROM customer", "SELECT age FROM customer"),
    ],
    "casts": [
        (
            "SELECT CAST(age AS TEXT), CAST(score AS INTEGER), CAST(zip AS INTEGER), CAST(age AS REAL) FROM customer",
            "SELECT age::text, trunc(score)::int, trunc(zip::numeric)::int, age::float FROM customer",
        ),
        (
            "SELECT CAST(t AS INTEGER) FROM reading",
            "SELECT CASE WHEN t IS NOT NULL THEN coalesce(substring(t, '^\\s*([-+]?\\d+)'), '0')::bigint END FROM reading",
        ),
        (
            "SELECT CAST('12abc' AS INTEGER), CAST('x' AS INTEGER), CAST(7.9 AS INT), CAST(-7.9 AS INT)",
            "SELECT 12, 0, trunc(7.9)::int, trunc(-7.9)::int",
        ),
        ("SELECT CAST(avg(age) AS INTEGER) FROM customer", "SELECT trunc(avg(age))::int FROM customer"),
        ("SELECT CAST(n AS REAL) / 2 FROM reading", "SELECT n::int::float / 2 FROM reading"),
        (
            "SELECT CAST(weight AS TEXT) FROM product",
            "SELECT to_char(weight, 'FM999999999999990.0999999999999') FROM product",
        ),
    ],
    "arithmetic": [
        (
            "SELECT 7 / 2, 7 / 2.0, -7 / 2, 7 % 3, stock / 2, stock * 1.0 / 2 FROM product",
            "SELECT 7 / 2, 7 / 2.0, -7 / 2, 7 % 3, stock / 2, stock * 1.0 / 2 FROM product",
        ),
        (
            "SELECT 10 / stock, 10 % stock FROM product",
            "SELECT 10 / nullif(stock, 0), 10 % nullif(stock, 0) FROM product",
        ),
        (
            "SELECT 1.0 * sum(qty) / nullif(sum(price), 0), 10 / nullif(stock, 10) FROM item JOIN product ON product.id = item.product_id GROUP BY stock",
            "SELECT 1.0 * sum(qty) / nullif(sum(price), 0), 10 / nullif(nullif(stock, 10), 0) FROM item JOIN product ON product.id = item.product_id GROUP BY stock",
        ),
        (
            "SELECT price / 2 FROM product",
            "SELECT CASE WHEN price = trunc(price) THEN div(price, 2) ELSE price / 2 END FROM product",
        ),
        (
            "SELECT sum(age) / count(*), sum(age) / count(age), sum(age) / count(city) FROM customer",
            "SELECT sum(age) / count(*), sum(age) / count(age), sum(age) / nullif(count(city), 0) FROM customer",
        ),
        (
            "SELECT city, count(*) * 100 / count(*) FROM customer GROUP BY city",
            "SELECT city, count(*) * 100 / count(*) FROM customer GROUP BY city",
        ),
        (
            "SELECT sum(qty * price) / sum(qty) FROM item JOIN product ON product.id = item.product_id",
            "SELECT sum(qty * price) / nullif(sum(qty), 0) FROM item JOIN product ON product.id = item.product_id",
        ),
        ("SELECT n + 1, n * 2, -n, '3' + 4 FROM reading", "SELECT n::int + 1, n::int * 2, -n::int, 3 + 4 FROM reading"),
        (
            "SELECT t + 1 FROM reading",
            "SELECT CASE WHEN t IS NOT NULL THEN coalesce(substring(t, '^\\s*([-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:e[-+]?\\d+)?)'), '0')::numeric END + 1 FROM reading",
        ),
        ("SELECT vip + 1, (age > 30) + 1 FROM customer", "SELECT vip::int + 1, (age > 30)::int + 1 FROM customer"),
        ("SELECT 7.9 % 3, score % 2 FROM customer", "SELECT 7 % 3, trunc(score)::bigint % 2 FROM customer"),
        (
            "SELECT id | 4, ~id, id << 40, id >> 1, (id & 1) = 1 FROM sensor",
            "SELECT id | 4, ~id, id::bigint << 40, id::bigint >> 1, (id & 1) = 1 FROM sensor",
        ),
        (
            "SELECT total(heat) / count(*) FROM sensor",
            "SELECT coalesce(sum(heat)::float, 0) / nullif(count(*), 0) FROM sensor",
        ),
    ],
    "concatenation": [
        ("SELECT name || ' (' || age || ')' FROM customer", "SELECT name || ' (' || age || ')' FROM customer"),
        ("SELECT id || age FROM customer", "SELECT id::text || age::text FROM customer"),
        ("SELECT id || '-' || zip || joined FROM customer", "SELECT id || '-' || zip || joined FROM customer"),
        (
            "SELECT weight || ' kg', price || ' EUR' FROM product",
            "SELECT to_char(weight, 'FM999999999999990.0999999999999') || ' kg', price::text || ' EUR' FROM product",
        ),
    ],
    "branches": [
        (
            "SELECT ifnull(city, 'none'), coalesce(age, 0), nullif(age, 34), iif(age > 30, 'old', 'young') FROM customer",
            "SELECT coalesce(city, 'none'), coalesce(age, 0), nullif(age, 34), CASE WHEN age > 30 THEN 'old' ELSE 'young' END FROM customer",
        ),
        (
            "SELECT ifnull(age, 'none'), coalesce(joined, '') FROM customer",
            "SELECT coalesce(age::text, 'none'), coalesce(joined::text, '') FROM customer",
        ),
        (
            "SELECT CASE WHEN age > 30 THEN 'x' ELSE 0 END FROM customer",
            "SELECT CASE WHEN age > 30 THEN 'x' ELSE '0' END FROM customer",
        ),
        (
            "SELECT CASE WHEN vip THEN age ELSE vip END, nullif(zip, 5) FROM customer",
            "SELECT CASE WHEN vip THEN age ELSE vip::int END, zip FROM customer",
        ),
    ],
    "aggregates": [
        (
            "SELECT sum(vip), avg(vip), max(vip), total(age) FROM customer",
            "SELECT sum(vip::int), avg(vip::int), max(vip::int), coalesce(sum(age)::float, 0) FROM customer",
        ),
        (
            "SELECT sum(age > 30), count(age > 30), count() FROM customer",
            "SELECT sum((age > 30)::int), count(age > 30), count(*) FROM customer",
        ),
        ("SELECT sum(n), avg(n), max(n) FROM reading", "SELECT sum(n::int), avg(n::int), max(n) FROM reading"),
        (
            "SELECT sum(v), avg(v), max(v), min(v) FROM reading",
            "SELECT sum(CASE WHEN v IS NOT NULL THEN coalesce(substring(v, '^\\d+'), '0')::numeric END), avg(CASE WHEN v IS NOT NULL THEN coalesce(substring(v, '^\\d+'), '0')::numeric END), coalesce(max(v) FILTER (WHERE v !~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$'), max(CASE WHEN v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN v::numeric END)::text), coalesce(min(CASE WHEN v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN v::numeric END)::text, min(v)) FROM reading",
        ),
        (
            "SELECT city, group_concat(age, '; ') FROM customer GROUP BY city",
            "SELECT city, string_agg(age::text, '; ') FROM customer GROUP BY city",
        ),
        ("SELECT group_concat(name) FROM customer", "SELECT string_agg(name, ',') FROM customer"),
        (
            "SELECT sum(age) FILTER (WHERE vip), count(DISTINCT city), avg(DISTINCT age) FROM customer",
            "SELECT sum(age) FILTER (WHERE vip), count(DISTINCT city), avg(DISTINCT age) FROM customer",
        ),
    ],
    "distinct_without_case": [
        ("SELECT DISTINCT name FROM sensor", "SELECT any_value(name) AS name FROM sensor GROUP BY lower(name)"),
    ],
    "like": [
        ("SELECT name FROM customer WHERE name LIKE '%EE'", "SELECT name FROM customer WHERE name ILIKE '%EE'"),
        ("SELECT name FROM customer WHERE name NOT LIKE '%a%'", "SELECT name FROM customer WHERE name NOT ILIKE '%a%'"),
        (
            "SELECT name FROM customer WHERE zip LIKE '0%' OR age LIKE '3%' OR joined LIKE '2020%'",
            "SELECT name FROM customer WHERE zip LIKE '0%' OR age::text LIKE '3%' OR joined::text LIKE '2020%'",
        ),
        (
            "SELECT name FROM customer WHERE name LIKE 'f\\%%' ESCAPE '\\'",
            "SELECT name FROM customer WHERE name ILIKE 'f\\%%' ESCAPE '\\'",
        ),
        ("SELECT name FROM customer WHERE name LIKE '_%\\_%'", "SELECT name FROM customer WHERE name LIKE '_%\\\\_%'"),
        (
            "SELECT c.name FROM customer c JOIN \"order\" o ON c.name LIKE '%' || o.note || '%'",
            "SELECT c.name FROM customer AS c JOIN \"order\" AS o ON c.name ILIKE '%' || o.note || '%'",
        ),
    ],
    "glob": [
        ("SELECT name FROM customer WHERE name GLOB 'A?n*'", "SELECT name FROM customer WHERE name LIKE 'A_n%'"),
        ("SELECT name FROM customer WHERE name GLOB '[A-C]*'", "SELECT name FROM customer WHERE name ~ '^[A-C].*$'"),
        (
            "SELECT name FROM customer WHERE name NOT GLOB '*_*'",
            "SELECT name FROM customer WHERE name NOT LIKE '%\\_%'",
        ),
    ],
    "affinities": [
        ("SELECT name FROM customer WHERE age = '34'", "SELECT name FROM customer WHERE age = 34"),
        ("SELECT name FROM customer WHERE zip = 5", "SELECT name FROM customer WHERE zip = '5'"),
        ("SELECT name FROM customer WHERE zip > 5", "SELECT name FROM customer WHERE zip > '5'"),
        (
            "SELECT name FROM customer WHERE age > 'abc' OR age < 'abc'",
            "SELECT name FROM customer WHERE FALSE OR age IS NOT NULL",
        ),
        ("SELECT name FROM customer WHERE age IN ('34', 51, 'x')", "SELECT name FROM customer WHERE age IN (34, 51)"),
        ("SELECT name FROM customer WHERE vip IN ('1', 'true')", "SELECT name FROM customer WHERE vip::int IN (1)"),
        (
            "SELECT name FROM customer WHERE age BETWEEN '20' AND '40'",
            "SELECT name FROM customer WHERE age BETWEEN 20 AND 40",
        ),
        (
            "SELECT name FROM customer WHERE zip IN (SELECT age - 22 FROM customer)",
            "SELECT name FROM customer WHERE zip IN (SELECT (age - 22)::text FROM customer)",
        ),
        ("SELECT name FROM customer WHERE length(name) < '3'", "SELECT name FROM customer WHERE TRUE"),
        (
            "SELECT name FROM customer WHERE zip < (SELECT avg(zip) FROM customer)",
            "SELECT name FROM customer WHERE zip < (SELECT to_char(avg(zip::numeric)::float, 'FM999999999999990.0999999999999') FROM customer)",
        ),
        (
            "SELECT name FROM customer WHERE age == 34 AND city IS NOT 'Rome' AND age IS 34",
            "SELECT name FROM customer WHERE age = 34 AND city IS DISTINCT FROM 'Rome' AND age IS NOT DISTINCT FROM 34",
        ),
        ("SELECT name FROM customer WHERE vip = 1 AND vip != 0", "SELECT name FROM customer WHERE vip AND vip"),
        ("SELECT name FROM customer WHERE vip IN (0, 1)", "SELECT name FROM customer WHERE vip::int IN (0, 1)"),
        ("SELECT name FROM customer WHERE joined > '2020'", "SELECT name FROM customer WHERE TRUE"),
        (
            "SELECT name FROM customer WHERE joined > '2020-01-31' OR joined IN ('2020-01-31', 'never')",
            "SELECT name FROM customer WHERE joined > '2020-01-31' OR joined::text IN ('2020-01-31', 'never')",
        ),
        (
            "SELECT id FROM \"order\" WHERE placed > '2021-03-05'",
            "SELECT id FROM \"order\" WHERE placed >= '2021-03-05'",
        ),
        (
            "SELECT id FROM \"order\" WHERE placed <= '2021-03-05'",
            "SELECT id FROM \"order\" WHERE placed < '2021-03-05'",
        ),
        (
            "SELECT id FROM \"order\" WHERE placed = '2021-03-05' OR placed = '2021-03-05 00:00:00'",
            "SELECT id FROM \"order\" WHERE placed::text = '2021-03-05' OR placed = '2021-03-05 00:00:00'",
        ),
        (
            "SELECT id FROM \"order\" WHERE placed BETWEEN '2021-03-01' AND '2021-04-01'",
            "SELECT id FROM \"order\" WHERE placed >= '2021-03-01' AND placed < '2021-04-01'",
        ),
        (
            "SELECT id FROM reading WHERE v > 6",
            "SELECT id FROM reading WHERE v !~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' OR CASE WHEN v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN v::numeric END > 6",
        ),
        (
            "SELECT id FROM reading WHERE v < 10 OR v = 100",
            "SELECT id FROM reading WHERE v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' AND CASE WHEN v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN v::numeric END < 10 OR v = '100'",
        ),
        ("SELECT id FROM reading WHERE v = 'n/a'", "SELECT id FROM reading WHERE v = 'n/a'"),
        (
            "SELECT r.id FROM reading r JOIN customer c ON r.n = c.age + 7",
            "SELECT r.id FROM reading AS r JOIN customer AS c ON r.n = (c.age + 7)::text",
        ),
        (
            "SELECT r.id FROM reading r JOIN customer c ON r.t = c.age",
            "SELECT r.id FROM reading AS r JOIN customer AS c ON c.age = CASE WHEN r.t ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN r.t::numeric END",
        ),
        (
            "SELECT CASE vip WHEN 1 THEN 'yes' ELSE 'no' END, CASE zip WHEN 5 THEN 'five' ELSE zip END FROM customer",
            "SELECT CASE WHEN vip THEN 'yes' ELSE 'no' END, CASE zip WHEN '5' THEN 'five' ELSE zip END FROM customer",
        ),
        (
            "SELECT id FROM sensor WHERE ts >= strftime('%s', '2023-11-15')",
            "SELECT id FROM sensor WHERE ts >= EXTRACT(EPOCH FROM '2023-11-15'::date)::bigint",
        ),
        ("SELECT id FROM sensor WHERE at > '2024-01-06'", "SELECT id FROM sensor WHERE at >= '2024-01-06'"),
        (
            "SELECT id FROM sensor WHERE at > '2024-01-05T09:00:00Z'",
            "SELECT id FROM sensor WHERE at > '2024-01-05T09:00:00Z'",
        ),
    ],
    "conditions": [
        ("SELECT name FROM customer WHERE vip AND age", "SELECT name FROM customer WHERE vip AND age <> 0"),
        ("SELECT name FROM customer WHERE NOT age OR NOT vip", "SELECT name FROM customer WHERE age = 0 OR NOT vip"),
        (
            "SELECT CASE WHEN age THEN 1 ELSE 0 END FROM customer",
            "SELECT CASE WHEN age <> 0 THEN 1 ELSE 0 END FROM customer",
        ),
        ("SELECT count(*) FROM customer WHERE 1", "SELECT count(*) FROM customer WHERE TRUE"),
        (
            "SELECT city FROM customer GROUP BY city HAVING max(vip)",
            "SELECT city FROM customer GROUP BY city HAVING max(vip::int) <> 0",
        ),
        ("SELECT id FROM sensor WHERE id & 1", "SELECT id FROM sensor WHERE (id & 1) <> 0"),
    ],
    "distinct_order": [
        (
            "SELECT DISTINCT city FROM customer ORDER BY age",
            "SELECT city FROM customer GROUP BY city ORDER BY min(age) NULLS FIRST",
        ),
        (
            "SELECT DISTINCT city, age FROM customer ORDER BY age",
            "SELECT DISTINCT city, age FROM customer ORDER BY age NULLS FIRST",
        ),
        (
            "SELECT DISTINCT name FROM customer ORDER BY length(name), name",
            "SELECT name FROM customer GROUP BY name ORDER BY length(name), name",
        ),
        (
            "SELECT DISTINCT city FROM customer GROUP BY city ORDER BY count(*) DESC, city",
            "SELECT city FROM customer GROUP BY city ORDER BY count(*) DESC, city NULLS FIRST",
        ),
        (
            'SELECT DISTINCT c.* FROM customer c JOIN "order" o ON o.customer_id = c.id ORDER BY o.placed DESC',
            'SELECT c.id, c.name, c.city, c.age, c.vip, c.joined, c.zip, c.score FROM customer AS c JOIN "order" AS o ON o.customer_id = c.id GROUP BY c.id, c.name, c.city, c.age, c.vip, c.joined, c.zip, c.score ORDER BY max(o.placed) DESC',
        ),
    ],
    "bare_columns": [
        ("SELECT count(*) FROM customer HAVING count(*) > 3", "SELECT count(*) FROM customer HAVING count(*) > 3"),
        ("SELECT name, max(age) FROM customer", "SELECT name, age FROM customer ORDER BY age DESC NULLS LAST LIMIT 1"),
        (
            "SELECT name, min(age), count(*) FROM customer",
            "SELECT (array_agg(name ORDER BY age))[1], min(age), count(*) FROM customer",
        ),
        (
            "SELECT city, name, max(age) FROM customer GROUP BY city",
            "SELECT city, (array_agg(name ORDER BY age DESC NULLS LAST))[1], max(age) FROM customer GROUP BY city",
        ),
        ("SELECT city, name FROM customer GROUP BY city", "SELECT city, any_value(name) FROM customer GROUP BY city"),
        (
            'SELECT c.name, count(*) FROM customer c JOIN "order" o ON c.id = o.customer_id GROUP BY c.id',
            'SELECT c.name, count(*) FROM customer AS c JOIN "order" AS o ON c.id = o.customer_id GROUP BY c.id',
        ),
        (
            'SELECT c.name, count(*) FROM customer c JOIN "order" o ON c.id = o.customer_id GROUP BY o.customer_id',
            'SELECT c.name, count(*) FROM customer AS c JOIN "order" AS o ON c.id = o.customer_id GROUP BY c.id',
        ),
        (
            'SELECT o.customer_id, c.name FROM customer c JOIN "order" o ON c.id = o.customer_id GROUP BY o.customer_id',
            'SELECT o.customer_id, c.name FROM customer AS c JOIN "order" AS o ON c.id = o.customer_id GROUP BY o.customer_id, c.name',
        ),
        (
            "SELECT p.id, p.price, count(*) FROM product p JOIN item i ON p.id = i.product_id GROUP BY p.name",
            "SELECT p.id, p.price, count(*) FROM product AS p JOIN item AS i ON p.id = i.product_id GROUP BY p.name, p.id",
        ),
        ("SELECT count(*) FROM customer GROUP BY 'x'", "SELECT count(*) FROM customer HAVING count(*) > 0"),
        ("SELECT count(*) FROM customer GROUP BY 1.5", "SELECT count(*) FROM customer HAVING count(*) > 0"),
        (
            "SELECT * FROM reading GROUP BY n",
            "SELECT any_value(id), any_value(v), any_value(t), n FROM reading GROUP BY n",
        ),
    ],
    "set_operations": [
        (
            "SELECT id AS a FROM customer UNION SELECT product_id AS b FROM item ORDER BY b",
            "SELECT id AS a FROM customer UNION SELECT product_id AS b FROM item ORDER BY a",
        ),
        (
            "SELECT Name FROM customer UNION SELECT name FROM product ORDER BY Name",
            "SELECT name FROM customer UNION SELECT name FROM product ORDER BY name",
        ),
        (
            "SELECT id FROM customer UNION ALL SELECT name FROM product",
            "SELECT id::text AS id FROM customer UNION ALL SELECT name FROM product",
        ),
        (
            "SELECT id FROM customer UNION SELECT product_id FROM item INTERSECT SELECT qty FROM item",
            "(SELECT id FROM customer UNION SELECT product_id FROM item) INTERSECT SELECT qty FROM item",
        ),
        (
            "SELECT vip FROM customer UNION SELECT age FROM customer",
            "SELECT vip::int AS vip FROM customer UNION SELECT age FROM customer",
        ),
        (
            'SELECT joined FROM customer UNION SELECT placed FROM "order"',
            'SELECT joined::text AS joined FROM customer UNION SELECT placed::text AS placed FROM "order"',
        ),
    ],
    "order_values": [
        (
            "SELECT id FROM reading ORDER BY v",
            "SELECT id FROM reading ORDER BY v IS NULL DESC, CASE WHEN v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN v::numeric END, v",
        ),
        (
            "SELECT id FROM reading ORDER BY v DESC, id",
            "SELECT id FROM reading ORDER BY v IS NULL, CASE WHEN v ~* '^\\s*[-+]?(\\d+\\.?\\d*|\\.\\d+)(e[-+]?\\d+)?\\s*$' THEN v::numeric END DESC, v DESC, id",
        ),
    ],
    "null_order": [
        ("SELECT name FROM customer ORDER BY age, name", "SELECT name FROM customer ORDER BY age NULLS FIRST, name"),
        (
            "SELECT name FROM customer ORDER BY age DESC, name",
            "SELECT name FROM customer ORDER BY age DESC NULLS LAST, name",
        ),
        (
            "SELECT name FROM customer ORDER BY name DESC LIMIT 1",
            "SELECT name FROM customer ORDER BY name DESC LIMIT 1",
        ),
        (
            "SELECT name, rank() OVER (ORDER BY age DESC) FROM customer",
            "SELECT name, rank() OVER (ORDER BY age DESC NULLS LAST) FROM customer",
        ),
        (
            'SELECT o.id FROM customer c LEFT JOIN "order" o ON c.id = o.customer_id ORDER BY o.id',
            'SELECT o.id FROM customer AS c LEFT JOIN "order" AS o ON c.id = o.customer_id ORDER BY o.id NULLS FIRST',
        ),
        (
            "SELECT city, count(*) FROM customer GROUP BY city ORDER BY sum(age), city",
            "SELECT city, count(*) FROM customer GROUP BY city ORDER BY sum(age) NULLS FIRST, city NULLS FIRST",
        ),
        (
            "SELECT id, percent_rank() OVER (ORDER BY age), cume_dist() OVER (ORDER BY id) FROM customer",
            "SELECT id, percent_rank() OVER (ORDER BY age NULLS FIRST), cume_dist() OVER (ORDER BY id) FROM customer",
        ),
    ],
    "limits": [
        (
            "SELECT name FROM customer ORDER BY name LIMIT 1, 2",
            "SELECT name FROM customer ORDER BY name LIMIT 2 OFFSET 1",
        ),
        ("SELECT name FROM customer ORDER BY name LIMIT -1", "SELECT name FROM customer ORDER BY name"),
        ("SELECT name FROM customer ORDER BY name LIMIT 2 OFFSET 0", "SELECT name FROM customer ORDER BY name LIMIT 2"),
        (
            "SELECT avg(age) FROM (SELECT age FROM customer ORDER BY age LIMIT 2 - (SELECT count(*) FROM customer) % 2 OFFSET (SELECT (count(*) - 1) / 2 FROM customer))",
            "SELECT avg(age) FROM (SELECT age FROM customer ORDER BY age NULLS FIRST LIMIT 2 - (SELECT count(*) FROM customer) % 2 OFFSET (SELECT (count(*) - 1) / 2 FROM customer))",
        ),
    ],
    "derived_names": [
        (
            "SELECT name FROM (SELECT name, max(age) FROM customer GROUP BY city) AS t",
            "SELECT name FROM (SELECT (array_agg(name ORDER BY age DESC NULLS LAST))[1] AS name, max(age) FROM customer GROUP BY city) AS t",
        ),
        (
            "WITH c AS (SELECT city, name FROM customer GROUP BY city) SELECT name, city FROM c",
            "WITH c AS (SELECT city, any_value(name) AS name FROM customer GROUP BY city) SELECT name, city FROM c",
        ),
    ],
    "parentheses": [
        ("SELECT name FROM customer WHERE (age > 30)", "SELECT name FROM customer WHERE age > 30"),
        (
            "SELECT name FROM customer WHERE (age > 30 OR vip) AND (city = 'Oslo')",
            "SELECT name FROM customer WHERE (age > 30 OR vip) AND city = 'Oslo'",
        ),
    ],
    "first_rows": [
        (
            "SELECT name FROM customer WHERE age = (SELECT age FROM customer WHERE vip = 1)",
            "SELECT name FROM customer WHERE age = (SELECT age FROM customer WHERE vip LIMIT 1)",
        ),
    ],
}
