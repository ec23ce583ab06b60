-- Beat: this sidecar lives. Where the calls of one agent stand apart it brings the namespace's word on the switches that stop
-- them, and a name for what is held here from now on, where that has none. It hears how many calls are open, what that name
-- is, and which key that decides on claims cannot be read.
redis.call('SET', base .. 'i:' .. instance, 1, 'PX', ARGV[4])
local life = get('life') or ''
if life == '' and ARGV[5] ~= '' then -- what is no name gives way
	life = ARGV[5]
	redis.call('SET', base .. 'life', life)
	publish('life') -- whoever held something here says so at once
end

local function revision(off) return off and (tonumber(string.match(off, '^(%d+) ')) or MOST) or 0 end

local function turn(who, off, on)
	local stands, let = try('HGET', base .. 'switch', who), tonumber(try('HGET', base .. 'switch-on', who) or '0') or 0
	if stands == nil then
		return
	elseif tonumber(on) > let then
		let = tonumber(on)
		try('HSET', base .. 'switch-on', who, on)
	end
	if revision(off) > math.max(let, revision(stands)) then
		redis.call('HSET', base .. 'switch', who, off)
	elseif stands and revision(stands) <= let then
		redis.call('HDEL', base .. 'switch', who)
	end
end

for i = 6, #ARGV, 3 do -- an agent, how its switch is off, and the revision at which it was last let go: the higher one holds
	turn(ARGV[i], ARGV[i + 1] ~= '' and ARGV[i + 1], ARGV[i + 2])
end

local sizes = {}
for _, set in ipairs({ 'unknown', 'open' }) do
	local n = try('ZCARD', base .. set)
	if not n then
		unread = set
	end
	sizes[#sizes + 1] = n or 0
end
if not try('HLEN', base .. 'switch') then
	unread = 'switch'
end
return { 'beat', instance, int(now), int(wall), sizes[1], sizes[2], unread and base .. unread or '', life }
