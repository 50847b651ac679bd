-- Give back all entries that are pending for a consumer, and delete it. XGROUP DELCONSUMER would drop
-- pending entries, so the same step makes sure that there are none.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for
--
-- Returns 1.

local topic, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
while true do
  local pending = redis.call('XPENDING', topic, group, '-', '+', 100, consumer)
  if #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', topic, group, consumer)
    return 1
  end
  for _, entry in ipairs(pending) do
    -- Idle since 1970, so that its lease has expired for every consumer.
    redis.call('XCLAIM', topic, group, released, 0, entry[1], 'TIME', 0, 'JUSTID')
  end
end
