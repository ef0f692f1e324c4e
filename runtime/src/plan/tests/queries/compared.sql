SELECT device FROM readings WHERE device = 1
--
SELECT device FROM readings WHERE temp > 1 AND device IN (1, 2)
--
SELECT device FROM readings WHERE upper(device) BETWEEN 1 AND 2
--
SELECT r.device FROM readings r JOIN devices d ON r.n = d.device
--
SELECT device, CASE WHEN n <> device THEN 1 ELSE 2 END AS x FROM readings
--
SELECT device FROM readings WHERE temp > '25' AND n = '3' AND device = '1'
--
SELECT device FROM readings WHERE temp > 'warm'
--
SELECT window_start, count(DISTINCT device, temp) AS n FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, approx_percentile_cont(0.95, temp) AS p FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT device, temp FROM readings QUALIFY row_number() OVER (PARTITION BY device ORDER BY ts) = 1
--
SELECT device, temp FROM readings QUALIFY row_number() OVER (ORDER BY ts) = 1
--
SELECT cuont(*) FROM readings
