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
--
SELECT r.device FROM readings r JOIN others o ON r.device = o.device AND r.ts >= o.at
--
SELECT r.device FROM readings r JOIN others o ON r.device = o.device AND r.ts <= o.at + INTERVAL '5 minutes'
--
SELECT r.device FROM readings r JOIN others o ON r.seen BETWEEN o.at - INTERVAL '5 minutes' AND o.at
--
SELECT r.device FROM readings r JOIN timeless o ON r.ts BETWEEN o.ts AND o.ts + INTERVAL '5 minutes'
--
SELECT r.device FROM readings r LEFT SEMI JOIN others o ON r.device = o.device AND r.ts BETWEEN o.at AND o.at + INTERVAL '5 minutes'
--
SELECT r.device FROM readings r LEFT JOIN others o ON r.device = o.device WHERE r.ts BETWEEN o.at AND o.at + INTERVAL '5 minutes'
--
SELECT r.device FROM readings r JOIN others o ON r.device = o.device AND r.ts BETWEEN o.at AND o.at + INTERVAL '1 month'
--
SELECT r.device FROM readings r JOIN others FOR SYSTEM_TIME AS OF r.seen AS o ON r.device = o.device
--
SELECT r.device FROM readings r JOIN others FOR SYSTEM_TIME AS OF now() AS o ON r.device = o.device
--
SELECT r.device FROM readings r JOIN timeless FOR SYSTEM_TIME AS OF r.ts AS o ON r.n = o.v
--
SELECT r.device FROM readings r RIGHT JOIN others FOR SYSTEM_TIME AS OF r.ts AS o ON r.device = o.device
--
SELECT r.device FROM readings r JOIN others FOR SYSTEM_TIME AS OF r.ts AS o USING (device)
--
SELECT device FROM readings FOR SYSTEM_TIME AS OF now()
--
SELECT r.device FROM readings r ASOF JOIN others o MATCH_CONDITION (r.ts <= o.at) ON r.device = o.device
--
SELECT r.device FROM readings r ASOF JOIN others o MATCH_CONDITION (r.ts = o.at) ON r.device = o.device
--
SELECT r.device FROM readings r ASOF JOIN others o MATCH_CONDITION (r.temp >= o.v) ON r.device = o.device
--
SELECT r.device FROM readings r ASOF JOIN others o MATCH_CONDITION (r.ts >= o.at) ON r.device = o.device AND r.temp > o.v
--
SELECT r.device FROM readings r ASOF JOIN devices o MATCH_CONDITION (r.ts >= o.max) ON r.device = o.device
--
SELECT r.device FROM readings r ASOF JOIN others o ON r.device = o.device
