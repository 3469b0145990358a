-- Compiles every ready-made kernel into the folder given, in the form that runs without a compiler.
-- Run by make: rklua scripts/precompile.lua build/kernels
local rk = require "rk"

local folder = assert(arg[1], "usage: rklua scripts/precompile.lua FOLDER")
for _, name in ipairs(require "rk.kernels") do
  require("rk.kernels." .. name)
  local done, message = rk.precompile(name, folder)
  if not done then
    io.stderr:write("precompile: ", message, "\n")
    os.exit(1)
  end
end
