SELECT device, temp AS device FROM readings
--
SELECT * FROM readings r JOIN devices d ON r.device = d.device
--
SELECT temp + 1, temp + 1 FROM readings
--
SELECT device FROM q
--
SELECT device FROM out
--
WITH RECURSIVE c AS (SELECT device FROM readings UNION ALL SELECT device FROM c) SELECT * FROM c
--
SELECT * FROM readings PIVOT (sum(temp) FOR device IN ('a', 'b'))
--
SELECT r.device FROM readings r, LATERAL (SELECT * FROM devices d WHERE d.device = r.device) x
--
SELECT größe FROM readings
--
SELECT Größe, "äöü", devic FROM readings
--
SELECT 1
--
SELECT * FROM devices
--
SELECT device, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY ROLLUP(device), window_start, window_end
--
SELECT window_start, avg(device) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, sum(avg(temp)) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT cast(device AS dubble) FROM readings
--
SELECT cast(tags AS timestamp) FROM readings
--
SELECT device[1], temp.x FROM readings
--
SELECT tags['a'] FROM readings
--
SELECT device FROM readings HAVING temp > 3
--
SELECT device FROM readings QUALIFY row_number() OVER () = 1
--
SELECT device FROM readings FETCH FIRST 3 ROWS ONLY
--
SELECT TOP 3 device FROM readings
--
SELECT device FROM readings TABLESAMPLE (10 PERCENT)
--
SELECT device INTO x FROM readings
--
SELECT * FROM readings NATURAL JOIN others
--
SELECT r.device FROM readings r JOIN devices d USING (devic)
--
SELECT r.device FROM readings r JOIN devices d ON r.devic = d.devise AND r.tmp > 3
--
SELECT now() + device FROM readings
--
SELECT device FROM readings WHERE ts > '2024-13-45'
--
SELECT INTERVAL '1 minit' FROM readings
--
SELECT $1 FROM readings
--
SELECT :name FROM readings
--
SELECT @x FROM readings
--
SELECT device FROM readings WHERE device = "abc"
--
SELECT device FROM readings WHERE device == 'abc' && temp > 3
--
SELECT device FROM readings WHERE temp BETWEEN 3
--
SELECT * FROM generate_series(1, 3)
--
SELECT unnest(temp) FROM readings
--
SELECT * EXCEPT (devic) FROM readings
--
VALUES (1)
--
SELECT device, readings.devic FROM readings JOIN devices d ON d.device = readings.device
--
SELECT order FROM readings
--
SELECT d.room, readings.room FROM readings JOIN devices d ON d.device = readings.device
--
SELECT device,
  upper(hum),
  sqrt(tags) -- comment
FROM readings
--
SELECT device, avg(*) AS mean FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, window_end
--
SELECT device, temp * 9 / 5 + 32 AS f FROM readings WHERE f > 100
--
SELECT device, count(*) AS c FROM TUMBLE(readings, ts, INTERVAL '1 minute') WHERE c > 1 GROUP BY device, window_start, window_end
--
SELECT device->'temp' AS temp FROM readings
--
SELECT ts, json_get(device, 'temp') FROM readings
--
SELECT device, averge(temp) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, window_end
--
SELECT device, mode(temp), cuont(*), maxx(temp), uper(device) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device, window_start, window_end
--
SELECT count(*) FROM readings GROUP BY TUMBLE(ts, INTERVAL '1 minute')
--
SELECT TUMBLE_START(ts, INTERVAL '1 minute') AS s, time_bucket('1 minute', ts) AS b FROM readings
