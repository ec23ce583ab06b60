package store

import _ "embed"

//go:embed redis_state.lua
var stateLua string

//go:embed redis_begin.lua
var beginLua string

//go:embed redis_finish.lua
var finishLua string

//go:embed redis_settle.lua
var settleLua string

//go:embed redis_resolve.lua
var resolveLua string

//go:embed redis_deliver.lua
var deliverLua string

//go:embed redis_look.lua
var lookLua string

//go:embed redis_list.lua
var listLua string

//go:embed redis_beat.lua
var beatLua string

//go:embed redis_usage.lua
var usageLua string

//go:embed redis_assert.lua
var assertLua string

// The scripts of claims. A full server refuses a claim; what ends one always runs.
var (
	beginScript   = newScript("begin", "#!lua\n"+stateLua+beginLua)
	finishScript  = newScript("finish", evenFull+stateLua+finishLua)
	settleScript  = newScript("settle", evenFull+stateLua+settleLua)
	resolveScript = newScript("resolve", evenFull+stateLua+resolveLua)
	deliverScript = newScript("deliver", evenFull+stateLua+deliverLua)
	lookScript    = newScript("look", evenFull+stateLua+lookLua)
	listScript    = newScript("list", evenFull+stateLua+listLua)
	beatScript    = newScript("beat", evenFull+stateLua+beatLua)
	usageScript   = newScript("usage", "#!lua flags=no-writes,allow-oom\n"+stateLua+usageLua)
	assertScript  = newScript("assert", evenFull+stateLua+assertLua)
)

const evenFull = "#!lua flags=allow-oom\n"
