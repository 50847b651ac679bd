-- Give back all entries that are pending for a consumer, and delete it. XGROUP DELCONSUMER would drop
-- pending entries, so the same step makes sure that there are none.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for, then each entry that no handler
--       has received and how often it had been delivered before: this delivery is no attempt
--
-- Returns 1.

local topic, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local untouched = {}
for at = 4, #ARGV, 2 do
  untouched[ARGV[at]] = ARGV[at + 1]
end

while true do
  local pending = redis.call('XPENDING', topic, group, '-', '+', 100, consumer)
  if #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', topic, group, consumer)
    return 1
  end
  for _, entry in ipairs(pending) do
    -- Idle since 1970, so that its lease has expired for every consumer.
    local attempts = untouched[entry[1]] or entry[4]
    redis.call('XCLAIM', topic, group, released, 0, entry[1], 'TIME', 0, 'RETRYCOUNT', attempts, 'JUSTID')
  end
end
