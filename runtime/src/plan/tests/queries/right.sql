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
