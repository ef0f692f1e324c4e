SELECT devic FROM readings
--
SELECT r.devic, r.tmp + 1 FROM readings r WHERE r.temmp > 3
--
SELECT x.device FROM readings r
--
SELECT readings.device FROM readings r
--
SELECT zzzzz FROM readings
--
SELECT device FROM readins
--
SELECT device FROM db.readings, nope
--
SELECT uper(device) FROM readings
--
SELECT qwertz(device), qwertz(temp) FROM readings
