-- One row per day and airport, in a table partitioned by month.
-- forebay: materialization_strategy=REPLACE
-- forebay: partitioned_by=month(day)
SELECT
  day,
  origin,
  count(*) AS arrived,
  sum(CASE WHEN late THEN 1 ELSE 0 END) AS late,
  avg(arr_delay) AS mean_delay
FROM arrivals
GROUP BY day, origin
ORDER BY day, origin
