-- The original, without a bound.
SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time AS bid_date_time,
       a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS auction_date_time, a.expires, a.seller,
       a.category
FROM bid b, auction a
WHERE b.auction = a.id AND a.category = 10
