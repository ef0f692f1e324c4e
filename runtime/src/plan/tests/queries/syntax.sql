SELCT device FROM readings
--
SELECT device FORM readings
--
SELECT device FROM
--
SELECT (device FROM readings
--
SELECT device FROM readings WHERE
--
SELECT device FROM readings WHERE temp > 'abc
--
SELECT device FROM readings WHERE temp = = 3
--
SELECT "device FROM readings
--
SELECT device FROM readings GROUP device
--
SELECT CASE WHEN temp > 3 THEN 1 FROM readings
