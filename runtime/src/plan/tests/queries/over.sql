SELECT lag(temp) OVER (PARTITION BY device) FROM readings
--
SELECT lag(temp) OVER (PARTITION BY device ORDER BY temp) FROM readings
--
SELECT device, lag(temp) OVER (PARTITION BY device ORDER BY ts),
       rank() OVER (PARTITION BY device ORDER BY ts DESC) FROM readings
--
SELECT lag(v) OVER (ORDER BY ts) FROM timeless
--
SELECT avg(temp) OVER (PARTITION BY device ORDER BY ts ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) FROM readings
--
SELECT sum(temp) OVER () FROM readings
--
SELECT ntile(4) OVER (PARTITION BY device ORDER BY ts) FROM readings
--
SELECT cume_dist() OVER w, percent_rank() OVER w FROM readings WINDOW w AS (PARTITION BY device ORDER BY ts)
--
SELECT sum(n) OVER (ORDER BY ts GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM readings
--
SELECT sum(n) OVER (ORDER BY ts RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW) FROM readings
--
SELECT sum(n) OVER (ORDER BY ts ROWS BETWEEN 1 PRECEDING AND 3 PRECEDING) FROM readings
--
SELECT lag(temp, n) OVER (ORDER BY ts) FROM readings
--
SELECT lag(temp, 1, hum) OVER (ORDER BY ts) FROM readings
--
SELECT lag(temp, 2000000) OVER (ORDER BY ts) FROM readings
--
SELECT count(DISTINCT device) OVER (ORDER BY ts) FROM readings
--
SELECT array_agg(temp) OVER (PARTITION BY device ORDER BY ts) FROM readings
--
SELECT lead(temp) IGNORE NULLS OVER (PARTITION BY device ORDER BY ts) FROM readings
--
SELECT lead(temp) OVER (PARTITION BY device ORDER BY ts), lead(hum) OVER (ORDER BY ts) FROM readings
--
SELECT a, lag(temp) OVER (ORDER BY ts) FROM (SELECT ts, temp, lead(temp) OVER (ORDER BY ts) AS a FROM readings) x
--
SELECT device FROM readings QUALIFY temp > 1
