-- Set the counts of deliveries of entries that are still pending for this consumer: `claim.lua` says what they
-- mean. An entry in the call of a handler has the number of its next attempt.
--
-- KEYS  the topic
-- ARGV  group, consumer, then entries, each followed by its count
--
-- Returns the entries that are not pending for this consumer any more.

local lost = {}
for at = 3, #ARGV, 2 do
  local entry = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2])
  if #pending == 0 then
    lost[#lost + 1] = entry
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry, 'RETRYCOUNT', ARGV[at + 1], 'JUSTID')
  end
end
return lost
