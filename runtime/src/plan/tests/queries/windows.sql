SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '0 seconds') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '-5 seconds') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 month 3 days') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, 60) GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minit') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, seen, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, tss, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(timeless, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(devices, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE((SELECT * FROM readings), ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
WITH c AS (SELECT * FROM readings) SELECT window_start, count(*) FROM TUMBLE(c, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts) GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE() GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(TABLE readings, DESCRIPTOR(ts) INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TABLE(HOP(TABLE readings, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TABLE(SESSION(TABLE readings PARTITION BY gadget, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(tss), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 hour', INTERVAL '1 month') GROUP BY window_start, window_end
--
SELECT device FROM HOP(readings, ts, INTERVAL '1 minute')
--
SELECT device FROM HOP(readings, ts, INTERVAL '0 minutes', INTERVAL '2 minutes')
--
SELECT device FROM HOP(readings, ts, INTERVAL '1 minute', INTERVAL '-2 minutes')
--
SELECT device FROM HOP(readings, ts, INTERVAL '1 day', INTERVAL '1 month')
--
SELECT device FROM HOP(readings, ts, INTERVAL '1 minute', 60)
--
SELECT device FROM HOP(readings, ts, INTERVAL '1 minute', INTERVAL '2 minutes', 'x')
--
SELECT device FROM HOP(readings, ts, INTERVAL '1 second', INTERVAL '1 day')
--
SELECT device FROM HOP(devices, ts, INTERVAL '1 minute', INTERVAL '2 minutes')
--
SELECT device FROM CUMULATE(readings, ts, INTERVAL '1 minute')
--
SELECT device FROM CUMULATE(readings, ts, INTERVAL '2 minutes', INTERVAL '5 minutes')
--
SELECT window_start, count(*) FROM CUMULATE(readings, ts, INTERVAL '1 minute', INTERVAL '5 minutes') GROUP BY window_start
--
SELECT device FROM SESSION(readings, ts)
--
SELECT device FROM SESSION(readings, ts, INTERVAL '0 minutes', device)
--
SELECT device FROM SESSION(readings, ts, INTERVAL '1 month', device)
--
SELECT device FROM SESSION(readings, ts, INTERVAL '1 minute', devic)
--
SELECT device FROM SESSION(readings, ts, INTERVAL '1 minute', upper(device))
--
SELECT device FROM SESSION(readings, seen, INTERVAL '1 minute', device)
--
SELECT device, window_end, count(*) FROM SESSION(readings, ts, INTERVAL '1 minute', device) GROUP BY device, window_end
--
SELECT date_bin(INTERVAL '1 minute', seen) AS at, count(*) FROM readings GROUP BY at
--
SELECT date_bin(INTERVAL '1 month', ts, TIMESTAMP '2026-01-15') AS at, count(*) FROM readings GROUP BY at
--
SELECT date_trunc('hour', ts + INTERVAL '1 hour') AS at, count(*) FROM readings GROUP BY at
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, size => INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readins, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM CUMULATIVE(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBEL(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT device, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device
