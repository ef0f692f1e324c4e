SELECT auction, price, bidder, date_time, extra
FROM (SELECT *, max(price) OVER (PARTITION BY date_bin(INTERVAL '10 seconds', date_time)) AS highest FROM bid)
WHERE price = highest
