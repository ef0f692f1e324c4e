WITH counts AS (
  SELECT auction, count(*) AS num, date_bin(INTERVAL '2 seconds', date_time) - back AS window_start
  FROM bid
  CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'), (INTERVAL '6 seconds'),
                     (INTERVAL '8 seconds')) AS offsets (back)
  GROUP BY auction, date_bin(INTERVAL '2 seconds', date_time) - back
)
SELECT auction, num, window_start, window_start + INTERVAL '10 seconds' AS window_end
FROM (SELECT *, max(num) OVER (PARTITION BY window_start) AS most FROM counts)
WHERE num = most
