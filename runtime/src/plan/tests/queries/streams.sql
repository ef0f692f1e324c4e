SELECT device, count(*) FROM readings GROUP BY device
--
SELECT count(*) FROM readings
--
SELECT DISTINCT device FROM readings
--
SELECT DISTINCT device, rank() OVER (ORDER BY temp) FROM readings ORDER BY devic LIMIT 3
--
SELECT lag(temp) OVER (PARTITION BY device ORDER BY ts) FROM readings
--
SELECT r.device FROM readings r JOIN others o ON r.device = o.device
--
SELECT r.device FROM readings r, others o
--
SELECT r.device FROM readings r FULL JOIN devices d ON r.device = d.device
--
SELECT r.device FROM devices d LEFT JOIN readings r ON r.device = d.device
--
SELECT device FROM readings WHERE device IN (SELECT device FROM others)
--
SELECT device FROM readings WHERE EXISTS (SELECT 1 FROM others o WHERE o.device = readings.device)
--
SELECT device FROM readings WHERE temp > (SELECT max(v) FROM others)
--
SELECT device FROM readings UNION SELECT device FROM others
--
SELECT device FROM readings EXCEPT SELECT device FROM others
--
SELECT device FROM readings UNION ALL SELECT device, v FROM others
