SELECT DISTINCT p.id, p.name, date_bin(INTERVAL '10 seconds', p.date_time) AS window_start
FROM person p, auction a
WHERE p.id = a.seller
  AND date_bin(INTERVAL '10 seconds', p.date_time) = date_bin(INTERVAL '10 seconds', a.date_time)
