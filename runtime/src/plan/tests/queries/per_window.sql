SELECT DISTINCT device FROM TUMBLE(readings, ts, INTERVAL '1 minute')
--
SELECT DISTINCT ON (device) device, temp FROM readings ORDER BY device, ts DESC
--
SELECT device, temp FROM readings ORDER BY ts
--
SELECT device, temp, window_end FROM TUMBLE(readings, ts, INTERVAL '1 minute') ORDER BY window_end DESC
--
SELECT device, temp, window_end FROM TUMBLE(readings, ts, INTERVAL '1 minute') ORDER BY temp, window_end
--
SELECT device, temp, window_end FROM TUMBLE(readings, ts, INTERVAL '1 minute') ORDER BY window_end LIMIT 3
--
SELECT device, temp FROM readings FETCH FIRST 3 ROWS ONLY
--
SELECT device, rank() OVER (ORDER BY temp) AS r FROM TUMBLE(readings, ts, INTERVAL '1 minute')
--
SELECT device, temp FROM readings QUALIFY row_number() OVER (PARTITION BY device ORDER BY temp) = 1
--
SELECT device, array_agg(temp ORDER BY ts) FROM readings GROUP BY device
--
SELECT device, count(*) FROM readings GROUP BY ROLLUP (device)
--
SELECT device, window_end, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY ROLLUP (window_end, device)
--
SELECT a.device FROM TUMBLE(readings, ts, INTERVAL '1 minute') a JOIN TUMBLE(others, at, INTERVAL '1 minute') b ON a.device = b.device
--
SELECT a.device FROM TUMBLE(readings, ts, INTERVAL '1 minute') a JOIN TUMBLE(others, at, INTERVAL '1 minute') b ON a.window_end < b.window_end
--
SELECT a.device FROM TUMBLE(readings, ts, INTERVAL '1 minute') a, TUMBLE(others, at, INTERVAL '1 minute') b WHERE a.device = b.device
--
SELECT device, v FROM others UNION SELECT device, temp FROM readings
--
SELECT device FROM TUMBLE(readings, ts, INTERVAL '1 minute') INTERSECT SELECT device FROM others
--
SELECT window_end, device FROM TUMBLE(readings, ts, INTERVAL '1 minute') EXCEPT SELECT at, device FROM others
--
SELECT device FROM TUMBLE(readings, ts, INTERVAL '1 minute') WHERE device IN (SELECT device FROM TUMBLE(others, at, INTERVAL '1 minute'))
--
SELECT device FROM TUMBLE(readings, ts, INTERVAL '1 minute') a WHERE device NOT IN (SELECT device FROM TUMBLE(others, at, INTERVAL '1 minute') b WHERE b.window_end = a.window_end)
--
SELECT device, (SELECT max(v) FROM TUMBLE(others, at, INTERVAL '1 minute') b WHERE b.window_end = a.window_end) FROM TUMBLE(readings, ts, INTERVAL '1 minute') a
