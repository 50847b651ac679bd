-- Renew the leases of entries that are still pending for this consumer. Claiming them without that check
-- would take them back from a consumer that has claimed them meanwhile.
--
-- KEYS  the topic
-- ARGV  group, consumer, then entries, each followed by its count of deliveries (see `claim.lua`; empty: as it is)
--
-- Returns the entries that are not pending for this consumer any more.

local lost = {}
for at = 3, #ARGV, 2 do
  local entry, count = ARGV[at], ARGV[at + 1]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2])
  if #pending == 0 then
    lost[#lost + 1] = entry
  else
    count = count ~= '' and count or pending[1][4]
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry, 'RETRYCOUNT', count, 'JUSTID')
  end
end
return lost
