-- Eight requests in one packet, for wrk.
init = function(args)
    local requests = {}
    for i = 1, 8 do
        requests[i] = wrk.format("GET", i == 3 and "/nothing-here" or "/")
    end
    together = table.concat(requests)
end
request = function()
    return together
end
