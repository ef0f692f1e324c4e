SELECT id, item_name, initial_bid, reserve, opened, expires, seller, category, bidder, price, bid_date_time
FROM (
  SELECT a.id, a.item_name, a.initial_bid, a.reserve, a.date_time AS opened, a.expires, a.seller, a.category,
         b.bidder, b.price, b.date_time AS bid_date_time,
         row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS n
  FROM auction a, bid b
  WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
)
WHERE n = 1
