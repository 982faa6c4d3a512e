-- Every flight that arrived, and whether it was late. Nothing is written: the other models read it from memory.
-- forebay: materialization_strategy=NONE
SELECT
  make_date(year, month, day) AS day,
  time_hour,
  carrier,
  tailnum,
  origin,
  dest,
  distance,
  dep_delay,
  arr_delay,
  arr_delay >= $min_delay AS late
FROM flights
WHERE arr_delay IS NOT NULL
