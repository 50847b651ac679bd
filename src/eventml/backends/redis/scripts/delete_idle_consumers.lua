-- Delete consumers that have nothing pending and have been idle for long. XGROUP DELCONSUMER drops pending
-- entries, so the same step makes sure that there are none.
--
-- KEYS  the topic
-- ARGV  group, the start of the names of consumers that may be deleted, a consumer that is kept, and how long
--       the others must have been idle, in milliseconds
--
-- Returns how many were deleted.

local topic, group, prefix, kept, idle = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local deleted = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', topic, group)) do
  local fields = {}
  for at = 1, #info, 2 do
    fields[info[at]] = info[at + 1]
  end
  local name = fields['name']
  if name:sub(1, #prefix) == prefix and name ~= kept and fields['pending'] == 0 and fields['idle'] >= idle then
    redis.call('XGROUP', 'DELCONSUMER', topic, group, name)
    deleted = deleted + 1
  end
end
return deleted
