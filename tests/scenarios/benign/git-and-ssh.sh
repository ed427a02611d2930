#!/bin/bash
# A repository with hooks, clones, a key that is made and used.
git config --global user.email someone@example.org
git config --global user.name Someone
git config --global init.defaultBranch main
ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_test
git init -q . && echo hello > file && git add file .env && git commit -qm first
printf '#!/bin/sh\nexit 0\n' > .git/hooks/pre-commit && chmod +x .git/hooks/pre-commit
echo more >> file && git commit -qam second
git clone -q . /tmp/clone && git -C /tmp/clone log --oneline
git gc -q && git fsck
git stash list; git branch topic; git checkout -q topic; git rebase -q main
git archive --format=tar HEAD | gzip -c > /tmp/archive.tar.gz
git credential fill <<< $'protocol=https\nhost=git.example\n' || true
GIT_SSH_COMMAND='ssh -o StrictHostKeyChecking=no -o BatchMode=yes -o ConnectTimeout=1' timeout 5 git ls-remote ssh://git@127.0.0.1:8000/x || true
ssh-keygen -l -f ~/.ssh/id_test
eval "$(ssh-agent -s)" > /dev/null && ssh-add -q ~/.ssh/id_test && ssh-add -l; ssh-agent -k > /dev/null
