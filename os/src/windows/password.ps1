# Gives an account of a reservation a password.
#
# name      the account
# password  the password
function Set-Password {
    if (@(Get-Ledger 'accounts') -notcontains $P.name) { throw "$($P.name) is no account of a reservation in this guest" }
    $password = ConvertTo-SecureString -String $P.password -AsPlainText -Force
    Set-LocalUser -Name $P.name -Password $password
    Changed 'password' $P.name
}
Set-Password
