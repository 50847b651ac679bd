-- Remove the entries that every group has finished and that are older than a bound.
--
-- KEYS  the topic
-- ARGV  the bound, as an entry's id, and how many entries to remove at most
--
-- Returns how many were removed.

local function before(one, other) -- an id is two numbers, which may be too large for Lua
  local a, b = one:match('^(%d+)'), other:match('^(%d+)')
  if a == b then
    a, b = one:match('%-(%d+)$') or '0', other:match('%-(%d+)$') or '0'
  end
  return #a < #b or (#a == #b and a < b)
end

if redis.call('XLEN', KEYS[1]) == 0 then
  return 0
end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then
  return 0
end
local bound = ARGV[1]
for _, info in ipairs(groups) do
  local fields = {}
  for at = 1, #info, 2 do
    fields[info[at]] = info[at + 1]
  end
  local pending = redis.call('XPENDING', KEYS[1], fields['name'])
  local first = pending[1] > 0 and pending[2] or fields['last-delivered-id']
  if before(first, bound) then
    bound = first
  end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', bound, 'LIMIT', ARGV[2])
