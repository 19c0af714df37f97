# SynFlow, then the kept weights by SGD; the base of the other ways.
# All ways share a budget, a file in budgets/ that PAB_BUDGET names; by default the full recipe.
_base_ = ['../budgets/{{$PAB_BUDGET:r18_cifar10}}.py']
