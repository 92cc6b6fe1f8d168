# Fails if an object compiled for one ISA defines a weak symbol: an inline function or template with external linkage,
# of which the linker keeps one copy for all, perhaps the one that only a newer CPU can run.
#   cmake -DNM=nm -DOBJECTS="a.o;b.o" -P isolation.cmake
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(symbols MATCHES " [VWu] ([^\n]*)")
    message(SEND_ERROR "${object} shares ${CMAKE_MATCH_1} with other ISAs")
  endif()
endforeach()
