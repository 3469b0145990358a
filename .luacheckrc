std = "lua54"
max_line_length = 110
-- These two are the interface document's own examples, letter for letter.
files["examples/actors.lua"] = { ignore = { "211", "212", "631" } }
files["examples/summer.lua"] = { ignore = { "631" } }
files["tests/lua"] = { std = "lua54+busted", max_line_length = 150 }
files["tests/golden"] = { std = "lua54" }
files["examples/embed/app.lua"] = { read_globals = { "rk", "runtime" } }
