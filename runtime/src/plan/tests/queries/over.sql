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
--
SELECT device FROM readings WHERE row_number() OVER (PARTITION BY device ORDER BY ts) = 1
--
SELECT device FROM readings
WHERE temp > 1 AND lag(temp) OVER w > 2 WINDOW w AS (PARTITION BY device ORDER BY ts)
--
SELECT r.device FROM readings r JOIN devices d ON d.device = lag(r.device) OVER (ORDER BY r.ts)
--
SELECT count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, lag(temp) OVER (ORDER BY ts)
--
SELECT device, count(*) AS c FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, window_end
HAVING rank() OVER (ORDER BY count(*)) < 3
--
SELECT lag(temp) OVER (ORDER BY ts) AS before, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, before
--
SELECT sum(lag(temp) OVER (ORDER BY ts)) OVER (ORDER BY ts) AS s FROM readings
--
SELECT window_end, max(lag(temp) OVER (ORDER BY ts)) AS m FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT avg(*) OVER (ORDER BY ts) AS a FROM readings
--
SELECT device, row_number() OVER (PARTITION BY device ORDER BY ts) AS r FROM readings WHERE temp > 1 AND r <= 3
--
SELECT device, temp FROM readings QUALIFY row_number() OVER (PARTITION BY device ORDER BY ts DESC) = 1
--
SELECT device, temp FROM readings QUALIFY rank() OVER (PARTITION BY device ORDER BY temp DESC) <= 3
--
SELECT sum(n) OVER (ORDER BY ts RANGE BETWEEN 10 PRECEDING AND CURRENT ROW) FROM readings
--
SELECT sum(n) OVER (ORDER BY ts ROWS BETWEEN INTERVAL '5 seconds' PRECEDING AND CURRENT ROW) FROM readings
--
SELECT device, lag(temp) AS b FROM readings
