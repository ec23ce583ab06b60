-- Begin: dedup.Begin on what stands under the claim's keys, then the switch, the bounds and the limits, then the claim.
local notafter, nonce = tonumber(ARGV[4]), ARGV[5]
local claim = { tenant = ARGV[6], agent = ARGV[7], tool = ARGV[8], cost = tonumber(ARGV[14]) }
local effect, timeout, resend, renews, unknownfor = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local hourcap, callcap, spendcap, shadow = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18] == '1'
local request, maxunknown, switched, life = ARGV[19], tonumber(ARGV[20]), ARGV[21], ARGV[22]

local keys, prints, guards, found = {}, {}, {}, {}
local nkeys = tonumber(ARGV[23])
for i = 1, nkeys do
	keys[i], prints[i] = ARGV[22 + 2 * i], ARGV[23 + 2 * i]
end
for i = 24 + 2 * nkeys, #ARGV do
	guards[#guards + 1] = ARGV[i]
end

local function say(word, ...) return { word, nonce, int(now), int(wall), ... } end

local function way(s)
	if s.outcome == RUNNING then
		return 'inflight'
	end
	return s.outcome == UNKNOWN and 'blocked' or 'replay'
end

local function standing(word, s, i, guard)
	if word == 'inflight' then -- somebody will wait for it
		redis.call('SET', base .. 'w:' .. int(s.fence), 1, 'PX', 60000)
	elseif word == 'blocked' then -- should the set have been lost, it is listed again
		list(s)
	end
	return say(word, guard and 1 or 0, i - 1, s.text or encode(s), body(s))
end

-- damage is the word on counts that cannot be read.
local function damage(why)
	local name = uncounted(why)
	if not name then
		error(why)
	end
	return say('damaged', name)
end

local function mine(s, taken) return say('mine', s.text or encode(s), taken and 1 or 0) end

-- Nothing is claimed where a key that decides on it cannot be read.
local off = try('HMGET', base .. 'switch', switched, '*')
local crowd = try('ZCARD', base .. 'unknown')
if not off then
	unread = 'switch'
elseif not crowd then
	unread = 'unknown'
end
if unread then
	return say('damaged', base .. unread)
end

for i, key in ipairs(keys) do
	local s, print = slot(key, prints[i])
	found[i] = s and { s = s, print = print } or false
end

for i = 1, nkeys do -- asked again: the reply was lost
	local f = found[i]
	if f and live(f.s) and f.s.outcome == RUNNING and f.s.nonce == nonce then
		return mine(f.s, f.s.attempt > 1)
	end
end
for i, thrown in ipairs(off) do
	if thrown and thrown ~= '' then
		return say('off', i == 1 and switched or '*')
	end
end

local function known(fence)
	for j = 1, nkeys do
		local f = found[j]
		if f and live(f.s) and f.print == prints[j] and f.s.fence == fence then
			return true
		end
	end
	return false
end

for i = 1, nkeys do
	local f = found[i]
	if f and live(f.s) and f.print ~= prints[i] and not known(f.s.fence) then
		return standing('reused', f.s, i, false)
	end
end

local function alone(fence)
	for i = 1, nkeys do
		if found[i] and live(found[i].s) and found[i].s.fence ~= fence then
			return false
		end
	end
	return true
end

local function takeable(s)
	if s.outcome ~= UNKNOWN and not (s.outcome == RUNNING and s.fence == renews) then
		return false
	end
	return s.effect == IDEMPOTENT and effect == IDEMPOTENT and now - s.claimed < resend and alone(s.fence)
end

local taken
for i = 1, nkeys do
	local f = found[i]
	if f and live(f.s) then
		if not takeable(f.s) then
			return standing(way(f.s), f.s, i, false)
		end
		taken = f.s
		break
	end
end
if nkeys == 0 then
	local fence = tonumber(get('n:' .. nonce) or 0)
	local s = fence and fence > 0 and load(fence)
	if s and s.outcome == RUNNING then
		return mine(s, false)
	end
end
for i, key in ipairs(guards) do
	local s = slot(key)
	if s and live(s) and open(s) then
		return standing(way(s), s, i, true)
	end
end

if wall > notafter then
	return say('late')
elseif get('life') ~= life then -- all was forgotten, and those who hold something do not know it yet
	return say('lost')
end

-- over is the limit that one more call would pass, and when it no longer would.
local minute, day = math.floor(now / MINUTE), math.floor(now / DAY)

local function hourfrees(left)
	if hourcap <= 0 or left == 0 then
		return HOUR
	end
	for m = minute - BUCKETS + 1, minute do
		left = left - number(hours(claim), tally('HGET', hours(claim), int(m)))
		if left < hourcap then
			return (m + BUCKETS) * MINUTE - now
		end
	end
	return HOUR
end

local function over()
	local midnight = (day + 1) * DAY - now
	if hourcap then
		local calls = count(hours(claim), minute)
		if calls >= hourcap then
			return 'max_actions_per_hour_exceeded', hourfrees(calls)
		end
	end
	local name = days(claim, day)
	if callcap and number(name, tally('HGET', name, 't:' .. claim.tool)) >= callcap then
		return 'max_calls_per_tool_exceeded', midnight
	end
	if spendcap and claim.cost > 0 then
		local spend = number(name, tally('HGET', name, 'spend'))
		if spend > spendcap or claim.cost > spendcap - spend then
			return 'max_spend_usd_per_day_exceeded', midnight
		end
	end
	return ''
end

local s
if taken then
	s = {}
	for name, v in pairs(taken) do
		s[name] = v
	end
	s.outcome, s.ended, s.expires, s.shadow = RUNNING, 0, 0, ''
	s.attempt = s.attempt + 1
else
	if nkeys > 0 and crowd >= maxunknown then
		return say('full')
	end
	local ok, limit, after = pcall(over)
	if not ok then
		return damage(limit)
	elseif limit ~= '' and not shadow then
		return say('over', limit, int(after))
	end
	s = blank(0)
	s.held, s.attempt, s.effect, s.claimed, s.unknownfor = 1, 1, effect, now, unknownfor
	s.origin, s.request, s.shadow = keys[1] or '', request, limit
	for i = 1, nkeys do -- goes on with a run that never was
		local f = found[i]
		if f and f.s.held == 0 and f.s.generation ~= 0 and f.print == prints[i] and now < f.s.expires then
			s.generation, s.origin = f.s.generation, f.s.origin
			break
		end
	end
	s.tenant, s.agent, s.tool, s.cost, s.minute, s.day = claim.tenant, claim.agent, claim.tool, claim.cost, minute, day
	local charged, why = pcall(charge, s, hourcap)
	if not charged then
		return damage(why)
	end
end
s.nonce, s.sent, s.timeout, s.holder = nonce, now, timeout, instance

-- The keys: those of the call that is taken over, and those of this claim.
local bound, named, pairs_, names = {}, {}, {}, {}
local function bind(key, print, own)
	if not named[key] then
		named[key] = true
		pairs_[#pairs_ + 1] = key .. ':' .. print
		if own then
			names[#names + 1] = { base .. 'k:' .. key, print }
		end
	end
end
if taken then
	eachkey(taken, function(key)
		bound[key] = pointer(key) == taken.fence
	end)
	eachkey(taken, function(key, print) bind(key, print, bound[key]) end)
end
for i = 1, nkeys do
	bind(keys[i], prints[i], true)
end
s.keys = table.concat(pairs_, ',')

local fence = math.max(now, last + 1)
for i = 1, nkeys do
	if found[i] then
		fence = math.max(fence, found[i].s.fence + 1)
	end
end
local generation = s.generation
repeat -- a fence is taken only where the clock went back and the last one is forgotten
	s.fence, s.generation = fence, generation == 0 and fence or generation
	fence = fence + 1
until write(s, true)
fence = s.fence
bump(fence)
for _, k in ipairs(names) do
	redis.call('SET', k[1], int(fence) .. ' ' .. k[2])
end
list(s)
if taken then
	local old = blank(taken.fence) -- whoever held it is overtaken, and who waited for it waits for this one
	old.outcome, old.nonce, old.moved, old.ended, old.expires = UNKNOWN, '0', int(fence), now, now + 7 * DAY
	old.keys = taken.keys
	write(old)
	list(old)
	if redis.call('DEL', base .. 'w:' .. int(taken.fence)) == 1 then
		redis.call('SET', base .. 'w:' .. int(fence), 1, 'PX', 60000)
	end
end
if nkeys == 0 then
	redis.call('SET', base .. 'n:' .. nonce, int(fence), 'PX', 60000)
end
return mine(s, taken ~= nil)
