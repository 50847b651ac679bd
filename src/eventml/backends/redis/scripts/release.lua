-- Give back entries that are pending for a consumer.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for, what has happened, then the entries
--       that a handler has received
--
-- What has happened:
--   reply lost  only entries that no handler has received are given back; a first delivery of them is no attempt
--   leaves      the others too, and the consumer is deleted; XGROUP DELCONSUMER would drop pending entries, so
--               the same step makes sure that there are none
--   died        all are given back, and nobody knows which a handler had received: each delivery was an attempt
--
-- Returns how many of those given back are not in the topic any more.

local topic, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local reply_lost, leaves, died = ARGV[4] == 'reply lost', ARGV[4] == 'leaves', ARGV[4] == 'died'
local received = {}
for at = 5, #ARGV do
  received[ARGV[at]] = true
end

local from, trimmed = '-', 0
while true do
  local pending = redis.call('XPENDING', topic, group, from, '+', 100, consumer)
  for _, entry in ipairs(pending) do
    if not (reply_lost and received[entry[1]]) then
      local no_attempt = entry[4] == 1 and not received[entry[1]] and not died
      local attempts = no_attempt and 0 or entry[4]
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
