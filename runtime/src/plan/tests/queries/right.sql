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
SELECT m.* FROM readings MATCH_RECOGNIZE (PARTITION BY device ORDER BY ts, n DESC MEASURES FIRST(A.ts) AS ts, LAST(B.tags[1]) AS tag, FINAL sum(U.n) AS s, count(A.*) + 1 AS c, PREV(LAST(A.temp), 2) AS p ONE ROW PER MATCH AFTER MATCH SKIP TO LAST b PATTERN (A B*? (C|PERMUTE(A, D)){2,3}? E??) WITHIN INTERVAL '1' HOUR SUBSET U = (A, B) DEFINE A AS A.temp > 3 AND CLASSIFIER() = 'A', B AS B.temp > avg(U.temp), e AS hum IS NULL) AS m
--
SELECT x.device, room, next FROM readings AS r MATCH_RECOGNIZE (PARTITION BY r.device ORDER BY r.ts MEASURES NEXT(B.temp) - A.temp AS next, CLASSIFIER() AS c, MATCH_NUMBER() AS no ALL ROWS PER MATCH OMIT EMPTY MATCHES PATTERN (A? | B) WITHIN INTERVAL '1 minute' DEFINE A AS A.temp > NEXT(A.temp), B AS date_part('hour', r.ts) > 3) x JOIN devices d ON x.device = d.device
--
SELECT device, window_start, count(*) AS n FROM HOP(readings, ts, INTERVAL '7 seconds', INTERVAL '1 minute') GROUP BY device, window_start
--
SELECT device, window_start, window_end FROM HOP(readings, ts, INTERVAL '1 minute', INTERVAL '10 seconds', INTERVAL '5 seconds')
--
SELECT max(temp) AS most, window_end FROM HOP(readings, ts, INTERVAL '1 second', INTERVAL '1 hour') GROUP BY window_start, window_end
--
SELECT window_end, count(*) AS n FROM CUMULATE(readings, ts, INTERVAL '1 hour', INTERVAL '1 day') GROUP BY window_end
--
SELECT device, window_start, window_end, count(*) AS n FROM SESSION(readings, ts, INTERVAL '5 minutes', device) GROUP BY device, window_start, window_end
--
SELECT * FROM SESSION(readings, ts, INTERVAL '5 minutes')
--
SELECT device, count(*) AS n FROM TABLE(SESSION(TABLE readings PARTITION BY device, DESCRIPTOR(ts), INTERVAL '5' MINUTES)) AS s GROUP BY device, window_start, window_end
--
SELECT date_trunc('week', ts) AS week, count(*) AS n FROM readings GROUP BY week HAVING count(*) > 3
--
SELECT date_bin(INTERVAL '1 month', ts, TIMESTAMP '2026-02-01') AS month, device, count(*) AS n FROM readings WHERE ok GROUP BY 1, 2
--
SELECT window_start, count(*) AS n FROM TUMBLE(readings, ts, INTERVAL '3 months', INTERVAL '1 month') GROUP BY window_start, window_end
--
SELECT r.device, o.v FROM readings r JOIN others o ON r.device = o.device AND r.ts BETWEEN o.at - INTERVAL '5 minutes' AND o.at
--
SELECT r.device, o.v FROM readings r, others o WHERE r.device = o.device AND r.ts >= o.at AND o.at > r.ts - INTERVAL '1 day'
--
SELECT r.device, o.v FROM readings r FULL JOIN others o ON r.ts = o.at
--
SELECT r.device, o.v FROM readings r LEFT JOIN others FOR SYSTEM_TIME AS OF r.ts AS o ON r.device = o.device
--
SELECT r.device, d.room FROM readings r JOIN devices FOR SYSTEM_TIME AS OF r.ts AS d ON r.device = d.device
--
SELECT r.device, o.v FROM readings r ASOF JOIN others o MATCH_CONDITION (r.ts > o.at) ON r.device = o.device
--
SELECT DISTINCT window_start, window_end, device FROM TUMBLE(readings, ts, INTERVAL '1 minute')
--
SELECT a.device, b.v FROM TUMBLE(readings, ts, INTERVAL '1 minute') a JOIN TUMBLE(others, at, INTERVAL '1 minute') b ON a.window_start = b.window_start AND a.window_end = b.window_end
--
SELECT device, temp, row_number() OVER w AS r FROM TUMBLE(readings, ts, INTERVAL '1 minute') QUALIFY r = 1 WINDOW w AS (PARTITION BY window_start, window_end ORDER BY temp)
--
SELECT window_end, device, temp FROM TUMBLE(readings, ts, INTERVAL '1 minute') ORDER BY window_end, temp
--
SELECT window_start, window_end, device, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end, CUBE (device, ok)
--
SELECT device FROM TUMBLE(readings, ts, INTERVAL '1 minute') a WHERE EXISTS (SELECT 1 FROM TUMBLE(others, at, INTERVAL '1 minute') b WHERE b.window_start = a.window_start AND b.window_end = a.window_end AND b.device = a.device)
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
--
SELECT (device->'temp')::double AS a, device->>'temp' AS b, json_get_float(device, 'temp') AS c, json_get_int(device, 'temp') AS d,
  json_get_bool(device, 'ok') AS e FROM readings
--
SELECT count(*) AS c FROM readings WHERE json_length(device) > 1 GROUP BY date_bin(INTERVAL '10 seconds', ts)
