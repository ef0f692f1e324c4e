INSERT INTO x SELECT 1
--
CREATE TABLE x (a int)
--
SELECT device FROM readings; SELECT temp FROM readings
--
-- only a comment
--

--
EXPLAIN SELECT device FROM readings
