"""Where each method comes from, ready to cite."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """What a citation needs; `bibtex` is one."""

    key: str
    authors: str
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""

    @property
    def bibtex(self) -> str:
        entry = "inproceedings" if self.venue and "Journal" not in self.venue else "article"
        where = "booktitle" if entry == "inproceedings" else "journal"
        lines = [f"  author = {{{self.authors}}}", f"  title = {{{{{self.title}}}}}", f"  year = {{{self.year}}}"]
        lines.append(f"  {where} = {{{self.venue or 'arXiv preprint arXiv:' + self.arxiv}}}")
        if self.arxiv:
            lines += [f"  eprint = {{{self.arxiv}}}", "  archiveprefix = {arXiv}"]
        return f"@{entry}{{{self.key},\n" + ",\n".join(lines) + "\n}"


CROSS_ENTROPY = Paper(
    "good1952rational", "Good, I. J.", "Rational Decisions", 1952, "Journal of the Royal Statistical Society, Series B"
)
KD = Paper(
    "hinton2015distilling",
    "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
    "Distilling the Knowledge in a Neural Network",
    2015,
    arxiv="1503.02531",
)
SP = Paper(
    "tung2019similarity",
    "Tung, Frederick and Mori, Greg",
    "Similarity-Preserving Knowledge Distillation",
    2019,
    "IEEE/CVF International Conference on Computer Vision (ICCV)",
    "1907.09682",
)
AFFINITY = Paper(
    "li2022unified",
    "Li, Vladimir and Maki, Atsuto",
    "Towards a Unified View of Affinity-Based Knowledge Distillation",
    2022,
    arxiv="2209.15555",
)
STKD = Paper(
    "zhao2021similarity",
    "Zhao, Haoran and Gong, Kun and Sun, Xin and Dong, Junyu and Yu, Hui",
    "Similarity Transfer for Knowledge Distillation",
    2021,
    arxiv="2103.10047",
)
CMKD = Paper(
    "niu2024efficient",
    "Niu, Wenqi and others",
    "Efficient and Robust Knowledge Distillation from A Stronger Teacher Based on Correlation Matching",
    2024,
    arxiv="2410.06561",
)
KERNEL = Paper(
    "qian2020improved",
    "Qian, Qi and Li, Hao and Hu, Juhua",
    "Improved Knowledge Distillation via Full Kernel Matrix Transfer",
    2020,
    arxiv="2009.14416",
)
DIST = Paper(
    "huang2022knowledge",
    "Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang",
    "Knowledge Distillation from A Stronger Teacher",
    2022,
    "Advances in Neural Information Processing Systems (NeurIPS)",
    "2205.10536",
)
DKD = Paper(
    "zhao2022decoupled",
    "Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun",
    "Decoupled Knowledge Distillation",
    2022,
    "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
    "2203.08679",
)
RKD = Paper(
    "park2019relational",
    "Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu",
    "Relational Knowledge Distillation",
    2019,
    "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
    "1904.05068",
)
PKT = Paper(
    "passalis2018learning",
    "Passalis, Nikolaos and Tefas, Anastasios",
    "Learning Deep Representations with Probabilistic Knowledge Transfer",
    2018,
    "European Conference on Computer Vision (ECCV)",
    "1803.10837",
)
CC = Paper(
    "peng2019correlation",
    "Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Zhou, Shunfeng and Wu, Yichao and Liu, Yu and Li, Dongsheng "
    "and Zhang, Zhaoning",
    "Correlation Congruence for Knowledge Distillation",
    2019,
    "IEEE/CVF International Conference on Computer Vision (ICCV)",
    "1904.01802",
)
