source /work/env/use cpu
cd /tmp/cpu
python /tmp/cpu/hd_4096.py '((384,1536),(1536,384),(384,384))'
python /tmp/cpu/hd2_4096.py '((384,1536),(1536,384),(384,384))'
