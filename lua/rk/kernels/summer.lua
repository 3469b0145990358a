--- A ready-made ring kernel: the sum of up to 1000 numbers.
-- local summer = require "rk.kernels.summer"
-- local pid = runtime:spawn "summer"
-- print(pid:call(summer.Request { values = { 1, 2, 3 } }).result)
local rk = require "rk"

local summer = {}

summer.Request = rk.message("ComputeRequest", { values = "f32[1000]" })
summer.Response = rk.message("ComputeResponse", { result = "f32" })

summer.kernel = rk.kernel("summer", {
  file = "summer.cu",
  accepts = summer.Request,
  replies = summer.Response,
})

return summer
