-- Resolve: dedup.Resolve, an operator's word on the call under the key and the fence.
local key, fence, outcome, keeps, force = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
local answer, bodyms, word, content = ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12]

local function say(word, ...) return { word, key, int(now), int(wall), ... } end

local s = load(fence)
local at, print = pointer(key)
if not s and at == fence then
	s = damaged(fence)
end
if s and s.damaged and at == fence then
	mend(s, key, print or '')
end
local named = false
if s then
	eachkey(s, function(k) named = named or k == key end)
end
if not named then
	local there = at and (load(at) or damaged(at))
	return say(there and live(there) and 'moved' or 'known')
end
lapse(s)
local was = encode(s)
local forced = force and outcome == NOTSENT
if s.holder == word then -- asked again: the reply was lost
	return say('resolved', was)
elseif s.moved ~= '' then
	return say('moved')
elseif not open(s) then
	return say('known')
elseif s.outcome == RUNNING and not forced then
	return say('running')
elseif outcome == NOTSENT and now < s.sent + s.timeout and not forced then
	return say('young')
end
if outcome == DONE then
	conclude(s, DONE, keeps)
	s.answer = answer
	if content then
		redis.call('SET', base .. 'b:' .. int(fence), content, 'PX', int(math.max(1, math.min(bodyms, keeps / 1000))))
	end
else
	s.outcome, s.ended = NOTSENT, now
	settle(s, NOTSENT)
	release(s, s.generation, now + 7 * DAY)
	s.nonce = '0'
end
s.holder = word
keep(s)
tell(s)
return say('resolved', was)
