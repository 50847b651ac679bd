-- Renew the leases of entries that are still this consumer's. Claiming them without looking would take
-- them back from whoever has claimed them meanwhile.
--
-- KEYS  the topic
-- ARGV  group, consumer, entries
--
-- Returns the entries that are not this consumer's any more.

local gone = {}
for at = 3, #ARGV do
  local entry = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2])
  if #pending == 0 then
    gone[#gone + 1] = entry
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry, 'JUSTID')
  end
end
return gone
