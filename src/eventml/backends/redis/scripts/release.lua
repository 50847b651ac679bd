-- Give back the entries that are pending for a consumer and that no handler has received: their delivery is no
-- attempt.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for, then the entries to keep
--
-- Returns how many of them are not in the topic any more.

local topic, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local kept = {}
for at = 4, #ARGV do
  kept[ARGV[at]] = true
end

local from, trimmed = '-', 0
while true do
  local pending = redis.call('XPENDING', topic, group, from, '+', 100, consumer)
  for _, entry in ipairs(pending) do
    if not kept[entry[1]] then
      -- Idle since 1970, so that its lease has expired for every consumer.
      local claimed = redis.call(
        'XCLAIM', topic, group, released, 0, entry[1], 'TIME', 0,
        'RETRYCOUNT', math.max(entry[4] - 1, 0), 'JUSTID'
      )
      trimmed = trimmed + 1 - #claimed
    end
  end
  if #pending < 100 then
    return trimmed
  end
  from = '(' .. pending[100][1]
end
