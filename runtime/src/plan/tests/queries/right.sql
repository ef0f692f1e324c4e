SELECT device temp, FROM readings
--
SELECT device, FROM readings
--
SELECT device FROM readings;
--
SELECT device FROM readings UNION ALL SELECT v FROM others
--
SELECT window_end, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_end
--
SELECT array_agg(temp ORDER BY hum), window_start FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, median(DISTINCT temp), first_value(temp ORDER BY hum) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT r.device FROM readings r JOIN devices d
--
SELECT current_timestamp, extract(minit FROM ts), date_trunc('minit', ts) FROM readings
--
SELECT temp / 0, 1/0 FROM readings
--
SELECT generate_series(1, n) FROM readings
--
(SELECT device FROM readings)
--
SELECT device, lag(temp) OVER (PARTITION BY device ORDER BY ts) AS last FROM readings
--
SELECT device, rank() OVER (PARTITION BY device ORDER BY ts, temp DESC) AS r, sum(n) OVER (ORDER BY ts) AS s FROM readings
--
SELECT device, avg(temp) OVER w AS a FROM readings WINDOW w AS (PARTITION BY device ORDER BY ts ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) QUALIFY a > 20
--
SELECT device, lead(temp) OVER (PARTITION BY device ORDER BY ts) AS next, lag(hum) OVER (ORDER BY ts) AS last FROM readings
--
SELECT s, lag(s) OVER (ORDER BY ts) AS b FROM (SELECT ts, sum(n) OVER (PARTITION BY device ORDER BY ts) AS s FROM readings) x
