-- Give back all entries that are pending for a consumer, and delete it. XGROUP DELCONSUMER would drop
-- pending entries, so the same step makes sure that there are none.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for ('' to give nothing back: then
--       a consumer with pending entries is not deleted), and how long the consumer must have been idle,
--       in milliseconds
--
-- Returns 1 if the consumer was deleted, else 0.

local topic, group, consumer, released, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

if idle > 0 then
  local found = false
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', topic, group)) do
    local fields = {}
    for at = 1, #info, 2 do
      fields[info[at]] = info[at + 1]
    end
    found = found or (fields['name'] == consumer and fields['idle'] >= idle)
  end
  if not found then
    return 0
  end
end

while true do
  local pending = redis.call('XPENDING', topic, group, '-', '+', 100, consumer)
  if #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', topic, group, consumer)
    return 1
  end
  if released == '' then
    return 0
  end
  for _, entry in ipairs(pending) do
    -- Idle since 1970, so that its lease has expired for every consumer.
    redis.call('XCLAIM', topic, group, released, 0, entry[1], 'TIME', 0, 'JUSTID')
  end
end
