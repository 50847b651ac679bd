-- Count the entries behind an id, for servers that do not keep the count.
--
-- KEYS  the topic
-- ARGV  the id, and how many to count at most
--
-- Returns the count, or -1 if there are more entries than that.

local left = tonumber(ARGV[2])
local from, counted = '(' .. ARGV[1], 0
while counted <= left do
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
  counted = counted + #entries
  if #entries < 100 then
    return counted
  end
  from = '(' .. entries[#entries][1]
end
return -1
