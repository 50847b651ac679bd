-- Remove the oldest entries of a topic beyond a length, and count the unread ones.
--
-- KEYS  the topic
-- ARGV  the length, and how many entries to remove at most
--
-- Returns how many were removed, and how many of them were unread: an entry counts once for each group
-- that had not read it.

local function after(one, other) -- an id is two numbers, which may be too large for Lua
  local a, b = one:match('^(%d+)'), other:match('^(%d+)')
  if a == b then
    a, b = one:match('%-(%d+)$') or '0', other:match('%-(%d+)$') or '0'
  end
  return #a > #b or (#a == #b and a > b)
end

local excess = redis.call('XLEN', KEYS[1]) - ARGV[1]
if excess <= 0 then
  return { 0, 0 }
end
excess = math.min(excess, tonumber(ARGV[2]))
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess + 1)
local lost = 0
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for at = 1, #info, 2 do
    fields[info[at]] = info[at + 1]
  end
  local unread = excess
  while unread > 0 and not after(oldest[excess - unread + 1][1], fields['last-delivered-id']) do
    unread = unread - 1
  end
  lost = lost + unread
end
return { redis.call('XTRIM', KEYS[1], 'MINID', oldest[excess + 1][1]), lost }
