--- The names of the ready-made ring kernels: `require("rk.kernels." .. name)` defines each.
return { "anomaly", "summer" }
