-- List: calls of the set `open` or `unknown`, oldest first; those of holders that lapsed become unknown on the way.
local set, from, most = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local fences = redis.call('ZRANGE', base .. set, from, from + most - 1)
local out = { 'listed', set, int(now), int(wall), #fences }
for _, fence in ipairs(fences) do
	local n = tonumber(fence)
	if plausible(n) or whole(n) and load(n) then
		local s = load(n) or damaged(n)
		lapse(s)
		if live(s) or open(s) then
			out[#out + 1] = encode(s)
		end
	else -- no call of ours
		redis.call('ZREM', base .. set, fence)
	end
end
return out
