# Places a Python package beside the scripted module, where the worker looks for it
# (PartialSegWorker/environment.py); called from the folder that the package lies in.
#
# The packages of the library have files for every network, format and dataset, so they are found rather
# than listed; CONFIGURE_DEPENDS sees a new one at the next build.

function(add_python_package name)
  file(GLOB_RECURSE scripts CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.py)
  file(GLOB_RECURSE resources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*)
  list(FILTER resources EXCLUDE REGEX "\\.py[co]?$")
  ctkMacroCompilePythonScript(
    TARGET_NAME ${name}
    SCRIPTS "${scripts}"
    RESOURCES "${resources}"
    DESTINATION_DIR ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}
    INSTALL_DIR ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}
    NO_INSTALL_SUBDIR
    )
endfunction()
