# Makes new ssh host keys beside those that a guest has, for an image that was not generalised. They are put in place by
# `setup.ps1`: until then the guest is who it was, and vcld knows both. Running it again changes nothing.
#
# Prints `hostkey<TAB>line` for each new host key.
Show-HostKeys (New-HostKeys)
