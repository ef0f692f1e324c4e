SELECT upper(temp, 3) FROM readings
--
SELECT upper() FROM readings
--
SELECT sqrt(device) FROM readings
--
SELECT abs(device) FROM readings
--
SELECT device FROM readings r JOIN devices d ON r.device = d.device
--
SELECT device, avg(temp) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, avg(temp) FROM TUMBLE(readings, ts, INTERVAL '1 minute') WHERE avg(temp) > 3 GROUP BY window_start, window_end
--
SELECT device FROM readings WHERE temp > 'hot'
--
SELECT device FROM readings WHERE ok > 3
--
SELECT device FROM readings WHERE temp
--
SELECT device FROM readings WHERE tags = 3
--
SELECT device + 1 FROM readings
--
SELECT ts + temp FROM readings
--
SELECT device FROM readings WHERE ok BETWEEN 1 AND 2
--
SELECT device FROM readings WHERE ok LIKE 'x'
--
SELECT device FROM readings WHERE ok IN (1, 2)
