-- Give back entries that are pending for a consumer. Those that no handler has received are given back in any
-- case, and a first delivery of them is no attempt; the others if the consumer leaves, which deletes it. XGROUP
-- DELCONSUMER would drop pending entries, so the same step makes sure that there are none.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for, 1 if the consumer leaves, then the
--       entries that a handler has received
--
-- Returns how many of those given back are not in the topic any more.

local topic, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local leaves = ARGV[4] == '1'
local received = {}
for at = 5, #ARGV do
  received[ARGV[at]] = true
end

local from, trimmed = '-', 0
while true do
  local pending = redis.call('XPENDING', topic, group, from, '+', 100, consumer)
  for _, entry in ipairs(pending) do
    if leaves or not received[entry[1]] then
      local attempts = (entry[4] == 1 and not received[entry[1]]) and 0 or entry[4]
      -- Idle since 1970, so that its lease has expired for every consumer.
      local claimed = redis.call(
        'XCLAIM', topic, group, released, 0, entry[1], 'TIME', 0, 'RETRYCOUNT', attempts, 'JUSTID'
      )
      trimmed = trimmed + 1 - #claimed
    end
  end
  if #pending < 100 then
    break
  end
  from = '(' .. pending[100][1]
end
if leaves then
  redis.call('XGROUP', 'DELCONSUMER', topic, group, consumer)
end
return trimmed
