SELECT device FROM HOP(readings, ts, INTERVAL '1 minute', INTERVAL '2 minutes')
--
SELECT device FROM SESSION(readings, ts, INTERVAL '1 minute')
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '0 seconds') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '-5 seconds') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 month') GROUP BY window_start, window_end
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
SELECT window_start, count(*) FROM TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readings, ts, size => INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBLE(readins, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT window_start, count(*) FROM TUMBEL(readings, ts, INTERVAL '1 minute') GROUP BY window_start, window_end
--
SELECT device, count(*) FROM TUMBLE(readings, ts, INTERVAL '1 minute') GROUP BY device
